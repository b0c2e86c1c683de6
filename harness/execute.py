"""One case on one rank: make inputs, run the layer, work out the truth, judge.

Collective: every rank of the gang runs the same case. The layer is called twice with different
numbers of tokens (more often where a call has few), its buffers poisoned, and all outputs are
judged by the table of checks. A fault on one rank is that rank's result, the others' are their own.
"""

from __future__ import annotations

import dataclasses
import traceback
from typing import TYPE_CHECKING

import torch

from harness import checks
from harness.checks import agreement
from harness.checks.check import Check, Observation
from harness.checks.sketches import sketches
from harness.diagnosis.diagnose import diagnose
from harness.fixtures import saved_tensors
from harness.fixtures.case_watch import CaseWatch
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.fixtures.run_calls import call_again, run_calls
from harness.mutants.sample import scene_of
from harness.mutants.self_check import prove
from harness.record.result import Finding, RankResult, Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.fixtures.case_watch import Watched
    from harness.fixtures.rank_context import RankContext
    from harness.matrix.case import MoETestConfig
    from harness.record.proof import Proof


def run_case(case: MoETestConfig, context: RankContext) -> RankResult:
    """Collective. Exceptions of the stack under test pass through: the worker reports them."""
    clock = Clock(context=context)
    with torch.inference_mode():
        watch = CaseWatch(context)
        with clock.phase("inputs"):
            subject = make_subject(case, context)
        watched = watch.run(
            lambda: run_calls(subject, context, clock),
            repeat=lambda calls: call_again(make_subject(case, context), calls),
        )
        seen = Observation(subject=subject, context=context, calls=watched.calls)
        if watched.is_altered:
            return _not_judged(seen, watched, clock)
        seen = judge(seen, checks.all_checks(), clock)
        late = watch.after_judgement(watched.calls)
        if late.is_altered:
            return _not_judged(seen, late, clock)
        with clock.phase("battery"):
            battery = _battery(seen)
        with clock.phase("diagnosis"):
            diagnosis = diagnose(seen)
        sketched = sketches(subject, seen.calls[0])
        saved_tensors.tensors(context, case, seen.calls[0])
    leaks = tuple(_state(text) for text in watched.leaks)
    return RankResult(
        rank=context.rank,
        verdict=verdict((*seen.findings, *leaks)),
        findings=(*_shown(seen.findings), *leaks),
        metrics=_metrics(seen),
        seconds=clock.seconds,
        members=subject.layer.members,
        sketches=sketched,
        battery=battery,
        diagnosis=diagnosis,
        poisoned=bool(leaks),
    )


def _not_judged(seen: Observation, watched: Watched, clock: Clock) -> RankResult:
    """Report an altered process, this rank's or another's: nothing computed in it counts."""
    elsewhere = (_state(text, Verdict.VACUOUS) for text in watched.altered_elsewhere)
    findings = (*map(_state, watched.altered), *elsewhere)
    seen = judge(dataclasses.replace(seen, findings=findings), (), clock)
    return RankResult(
        rank=seen.context.rank,
        verdict=verdict(seen.findings),
        findings=_shown(seen.findings),
        seconds=clock.seconds,
        members=seen.subject.layer.members,
        poisoned=True,
        unclear=watched.unclear,
    )


def _state(text: str, verdict: Verdict = Verdict.FAILED) -> Finding:
    return Finding(check="state", text=text, verdict=verdict)


def judge(seen: Observation, table: Iterable[Check], clock: Clock) -> Observation:
    """Return the observation with what each check of the table finds, one after another.

    After an exception in a check this rank joins no more collectives: it cannot know where in
    them the others are. What needs no other rank is judged all the same.
    """
    for check in table:
        if check.collective and Verdict.ERROR in (f.verdict for f in seen.findings):
            continue
        with clock.phase(check.phase):
            more = _run(check, seen)
        seen = dataclasses.replace(seen, findings=(*seen.findings, *more))
    return seen


def _run(check: Check, seen: Observation) -> tuple[Finding, ...]:
    """Return a check's findings; an exception in it is one, and hides no other."""
    try:
        return check.run(seen) if agreement.applies(check, seen) else ()
    except Exception as error:
        head = f"the check {check.name!r} raised {type(error).__name__}: {error}"
        text = f"{head}\n{traceback.format_exc().strip()}"
        return (Finding(check=check.name, text=text, verdict=Verdict.ERROR),)


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Decide. The worst of all findings; without any the rank has passed."""
    return worst(finding.verdict for finding in findings)


def _shown(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return those with a message: what leads, then call by call, exceptions last."""
    texts = [finding for finding in findings if finding.verdict is not Verdict.PASSED]
    texts.sort(key=lambda f: (not f.leads, f.verdict is Verdict.ERROR, f.call))
    return tuple(dataclasses.replace(finding, metrics={}, detail=None) for finding in texts)


def _metrics(seen: Observation) -> dict[str, float]:
    """Return the worst of the first two calls, whose sizes are the case's own."""
    metrics: dict[str, float] = {}
    for finding in (finding for finding in seen.findings if finding.call < 2):
        for name, value in finding.metrics.items():
            metrics[name] = max(metrics.get(name, value), value)
    return metrics


def _battery(seen: Observation) -> tuple[Proof, ...]:
    """Would the check have rejected wrong answers here? Only a right one raises the question."""
    subject, call = seen.subject, seen.calls[0]
    if seen.verdict(call) is not Verdict.PASSED:
        return ()
    return prove(scene_of(subject.case, seen.context.rank, call, subject.reference))
