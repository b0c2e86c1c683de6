"""Run one case on one rank: make inputs, call the layer, judge the outputs, explain a failure.

Collective: every rank of the gang runs the same case. The layer is called twice with different
numbers of tokens (more often if a call has few), with poisoned buffers, and all outputs are judged
by the table of checks. A finding on one rank is that rank's result; each rank returns its own.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from harness import checks
from harness.checks.check import Observation
from harness.checks.judge import judge, verdict
from harness.checks.routing import assumed as assumed_roundings
from harness.checks.sketches import sketches
from harness.diagnosis.diagnose import diagnose
from harness.fixtures import recorded_files, saved_tensors
from harness.fixtures.case_watch import CaseWatch, Watched
from harness.fixtures.collective_agreement import CollectivesDiffer
from harness.fixtures.hidden_routing import hidden_routing
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.fixtures.run_calls import call_again, run_calls
from harness.matrix.case_packages import versions_of
from harness.mutants.sample import scene_of
from harness.mutants.self_check import prove
from harness.record.proof import Outcome, best
from harness.record.result import Finding, RankResult, Verdict
from moe.kernels.launch_observer import observed
from moe.numerics import declaration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.fixtures.rank_context import RankContext
    from harness.matrix.case import MoETestConfig
    from harness.record.proof import Proof


def run_case(case: MoETestConfig, context: RankContext) -> RankResult:
    """Run a case and return this rank's result. Collective.

    Exceptions of the layer under test pass through: the worker reports them.
    """
    with observed() as launched:
        result = judged_case(case, context)
    return dataclasses.replace(result, kernels=tuple(launched))


def judged_case(case: MoETestConfig, context: RankContext) -> RankResult:
    """Return the result of `run_case` without the kernels that were launched. Collective."""
    clock = Clock(context=context)
    recorded_files.use_folder(context.options.get("trace"))
    with torch.inference_mode():
        watch = CaseWatch(context)
        observation, watched = observe(case, context, watch, clock)
        if watched.is_altered:
            return _unjudged_result(observation, watched, clock)
        observation = judge(observation, checks.all_checks(), clock)
        if observation.out_of_step is not None:
            return _out_of_step_result(observation, clock)
        watched_checks = watch.after_judgement(watched.calls)
        if watched_checks.is_altered:
            return _unjudged_result(observation, watched_checks, clock)
        saved_tensors.tensors(context, case, observation.calls[0])
        return _judged_result(observation, watched.leaks, clock)


def observe(
    case: MoETestConfig, context: RankContext, watch: CaseWatch, clock: Clock
) -> tuple[Observation, Watched]:
    """Make all calls of a case; return them with what they did to the process. Collective."""
    with clock.phase("inputs"):
        subject = make_subject(case, context)
    try:
        watched = watch.run(
            lambda: run_calls(subject, context, clock),
            repeat=lambda calls: call_again(make_subject(case, context), calls),
        )
    except CollectivesDiffer as error:
        observation = Observation(subject=subject, context=context, calls=(), out_of_step=error)
        return observation, Watched(calls=[])
    return Observation(subject=subject, context=context, calls=watched.calls), watched


def _judged_result(observation: Observation, leaks: Sequence[str], clock: Clock) -> RankResult:
    """Return the result of a judged case: self-checked if it passed, diagnosed if it failed.

    leaks: texts of findings on what the layer left behind in the process.
    """
    with clock.phase("battery"):
        battery = _self_check(observation)
    with clock.phase("diagnosis"):
        diagnosis = diagnose(observation, sum(clock.seconds.values()))
    sketched = sketches(observation.subject, observation.calls[0])
    leak_findings = tuple(_state_finding(text) for text in leaks)
    return RankResult(
        rank=observation.context.rank,
        verdict=verdict((*observation.findings, *leak_findings)),
        findings=(*_reported(observation.findings), *leak_findings),
        metrics=_metrics(observation),
        seconds=clock.seconds,
        members=observation.subject.layer.members,
        versions=versions_of(observation.subject.case),
        sketches=sketched,
        battery=battery,
        diagnosis=diagnosis,
        assumed=_assumed(observation.subject),
        router_assumed=assumed_roundings(observation),
        poisoned=bool(leaks),
    )


def _unjudged_result(observation: Observation, watched: Watched, clock: Clock) -> RankResult:
    """Return the result of a case that altered a rank's process: no computed value counts."""
    elsewhere = (_state_finding(text, Verdict.VACUOUS) for text in watched.altered_elsewhere)
    findings = (*map(_state_finding, watched.altered), *elsewhere)
    return RankResult(
        rank=observation.context.rank,
        verdict=verdict(findings),
        findings=_reported(findings),
        seconds=clock.seconds,
        members=observation.subject.layer.members,
        versions=versions_of(observation.subject.case),
        poisoned=True,
        unclear=watched.unclear,
    )


def _out_of_step_result(observation: Observation, clock: Clock) -> RankResult:
    """Return the result of a case whose ranks are out of step, so that their groups are, too."""
    return RankResult(
        rank=observation.context.rank,
        verdict=verdict(observation.findings),
        findings=_reported(observation.findings),
        seconds=clock.seconds,
        members=observation.subject.layer.members,
        versions=versions_of(observation.subject.case),
        poisoned=True,
    )


def _state_finding(text: str, verdict: Verdict = Verdict.FAILED) -> Finding:
    return Finding(check="state", text=text, verdict=verdict)


def _reported(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings with a message: leading ones, then by call, exceptions last."""
    reported = [finding for finding in findings if finding.verdict is not Verdict.PASSED]
    reported.sort(key=lambda f: (not f.leads, f.verdict is Verdict.ERROR, f.call))
    return tuple(dataclasses.replace(finding, metrics={}, detail=None) for finding in reported)


def _metrics(observation: Observation) -> dict[str, float]:
    """Return the worst metrics of the first two calls, whose sizes are the case's own."""
    metrics: dict[str, float] = {}
    for finding in (finding for finding in observation.findings if finding.call < 2):
        for name, value in finding.metrics.items():
            metrics[name] = max(metrics.get(name, value), value)
    return metrics


def _self_check(observation: Observation) -> tuple[Proof, ...]:
    """Return whether the checks reject known wrong outputs; nothing unless the case passed.

    What the data of one call cannot show, that of another may: each call is judged alike.
    """
    first = _proved(observation.calls)
    proofs: tuple[Proof, ...] = ()
    for call in (first, *(call for call in observation.calls if call is not first)):
        if observation.verdict(call) is not Verdict.PASSED:
            return proofs
        proofs = best([proofs, _proofs(observation, call)])
        if all(proof.outcome is not Outcome.MISSED for proof in proofs):
            return proofs
    return proofs


def _proofs(observation: Observation, call: Call) -> tuple[Proof, ...]:
    subject = observation.subject
    scene = scene_of(subject.case, observation.context.rank, call, subject.reference)
    others = observation.subject.roundings[1:] if call.routed is None else ()
    routings = (hidden_routing(subject.case, scene.logits, rounding) for rounding in others)
    weights = tuple(routing.topk_weights for routing in routings)
    return prove(dataclasses.replace(scene, candidates=subject.candidates, other_weights=weights))


def _proved(calls: Sequence[Call]) -> Call:
    """Return the call whose data are asked first: the first; the last, where experts have moved.

    Only then is there an earlier place that a token could wrongly be sent to.
    """
    return calls[-1] if calls[-1].earlier else calls[0]


def _assumed(subject: Subject) -> str | None:
    """Return the numerics that were assumed, as a row would state them; None if it states all."""
    if not subject.candidates.stated.unstated:
        return None
    return declaration(subject.reference.numerics)
