"""Diagnose one call on one rank: how much is wrong, where, in which pattern, and why.

`harness.report.failure_text` formats the result. Verdicts are not changed.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import torch

from harness.checks import routing
from harness.checks.check import FAILED_CALLS
from harness.diagnosis import (
    causes,
    error_image,
    patterns,
    routing_patterns,
    which_shares,
)
from harness.diagnosis.error_stats import facts, number
from harness.diagnosis.evidence import Evidence
from harness.diagnosis.explanations import EXPLANATIONS, OF_ROUTER, explanations
from harness.diagnosis.stage_interval import interval_of
from harness.diagnosis.stage_rows import of_stage
from harness.diagnosis.undeclared_rounding import with_rounding
from harness.diagnosis.which_elements import elements_of
from harness.mutants import HYPOTHESES
from harness.mutants.sample import scene_of
from harness.record.diagnosis import CallDiagnosis, Diagnosis
from harness.record.result import Topic
from harness.report import png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.checks.check import Observation
    from harness.diagnosis.explanations import Explanation
    from harness.diagnosis.patterns import Mismatch, Pattern
    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.mutants import Hypothesis
    from harness.mutants.sample import Scene
    from harness.record.result import Finding

MOST_CAUSES = 3
SURE_ROWS = 4  # wrong rows that no known mistake explains by chance
# Known mistakes whose output a wrong stage further up may give as well
OF_ANY_STAGE = (
    *("zeros", "halved", "doubled", "negated"),
    *("exponents_one_too_high", "exponents_one_too_low"),
)


def diagnose(observation: Observation, case_seconds: float = 0.0) -> Diagnosis | None:
    """Return this rank's diagnosis of its first FAILED_CALLS failed calls; None if none failed.

    case_seconds: what the case took until now; the search for causes stops in proportion to it.
    Never raises: an exception in the diagnosis is part of the result, and the verdict stands.
    """
    calls: list[CallDiagnosis] = []
    end = time.monotonic() + causes.budget(case_seconds)
    failed = observation.failed_calls
    for call in failed[:FAILED_CALLS]:
        try:
            calls.append(_diagnose_call(observation, call, before=calls, end=end))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            calls.append(CallDiagnosis(call=call.number, fault=text))
    if not failed:
        return None
    calls = with_rounding(observation, failed, calls)
    return Diagnosis(
        rank=observation.context.rank,
        failed=tuple(call.number for call in failed),
        of=len(observation.calls),
        every_call=all(_judged_in_every_call(call, len(observation.calls)) for call in calls),
        calls=tuple(calls),
    )


def _judged_in_every_call(call_diagnosis: CallDiagnosis, calls: int) -> bool:
    """Tell whether what is wrong in this call was judged in the other calls, too.

    Outputs are judged in every call; stages in the second call, and in the first if the second has
    no finding; everything else in one call only.
    """
    if call_diagnosis.output:
        return True
    return call_diagnosis.call == 0 and calls == 2 and bool(call_diagnosis.stages)


def _diagnose_call(
    observation: Observation, call: Call, *, before: Sequence[CallDiagnosis], end: float
) -> CallDiagnosis:
    """Explain one call, and draw its errors if the run's options name a folder for pictures."""
    subject, context = observation.subject, observation.context
    scene = scene_of(subject.case, context.rank, call, subject.reference)
    likely = tuple(cause.name for earlier in before for cause in earlier.causes)
    scene = dataclasses.replace(scene, candidates=subject.candidates)
    findings = observation.of(call)
    explained = explain(scene, call, findings, likely=likely, end=end, subject=subject)
    folder = context.options.get("pictures")
    if folder and explained.wrong_rows:
        name = png.stem(subject.case.id, f"rank{context.rank}-call{call.number + 1}")
        try:
            picture = error_image.save_rows(call, str(folder), name)
            return dataclasses.replace(explained, picture=picture)
        except OSError as error:
            text = f"{type(error).__name__}: {error}"
            return dataclasses.replace(explained, picture_fault=text)
    return explained


def explain(
    scene: Scene,
    call: Call,
    findings: Sequence[Finding],
    *,
    likely: Sequence[str] = (),
    end: float | None = None,
    subject: Subject | None = None,
) -> CallDiagnosis:
    """Return one call's diagnosis, without its picture.

    findings: of this call. likely: names of causes to try first; if one fits, no other is tried.
    end: time.monotonic() at which to stop searching causes; None: causes.SECONDS from now.
    subject: what is tested; None: a wrong stage is not explained from its inputs.
    """
    output, answer = call.output.out, call.answer
    mismatch = patterns.find_mismatch(output, answer)
    # Without a wrong row, the finding's text is the only description.
    topics = (Topic.VALUES, Topic.STAGES, *((Topic.ROWS,) if bool(mismatch.rows.any()) else ()))
    metrics = {name: value for finding in findings for name, value in finding.metrics.items()}
    stages = [finding.detail for finding in findings if finding.topic is Topic.STAGES]
    explained = CallDiagnosis(
        call=call.number,
        tokens=len(output),
        covers=topics,
        output=any(finding.topic in (Topic.ROWS, Topic.VALUES) for finding in findings),
        metrics={name: number(value) for name, value in metrics.items()},
        stages=tuple(stage.recorded() for stage in stages),
        facts=facts(output, answer.out, mismatch),
    )
    evidence = Evidence(scene, call, mismatch, next(iter(stages), None), subject)
    searched = _explained(explained, evidence, likely, end)
    is_routing_right = all(finding.check != routing.CHECK.name for finding in findings)
    if not is_routing_right:
        searched = _with_statements(searched, evidence, OF_ROUTER)
    if explained.output and not stages:
        finite = scene.case.logits != "nan"
        interval = interval_of(call, is_routing_right=is_routing_right, has_finite=finite)
        place = () if interval is None else (interval,)
        searched = dataclasses.replace(searched, patterns=(*searched.patterns, *place))
        searched = _with_weaker(searched, evidence)
    return searched


def _explained(
    explained: CallDiagnosis, evidence: Evidence, likely: Sequence[str], end: float | None
) -> CallDiagnosis:
    """Return the diagnosis with what explains the output, or its first wrong stage."""
    if not explained.output:
        if not explained.stages:
            return explained
        return _with_stage_pattern(_with_statements(explained, evidence), evidence)
    scene, mismatch, call = evidence.scene, evidence.mismatch, evidence.call
    ids = call.output.routing.topk_ids
    ids = torch.where(ids < scene.case.layer_spec.held_experts, ids, -1)  # no zero experts
    explained = dataclasses.replace(
        explained,
        experts=routing_patterns.shares(mismatch.rows, ids, scene.case.layer_spec.held_experts),
        patterns=tuple(_patterns(scene, mismatch, ids)),
    )
    searched = _with_causes(explained, _search(evidence, likely, end))
    searched = _with_stage_pattern(searched, evidence)
    if may_contradict(searched, evidence):
        of_stage_alone = _with_statements(dataclasses.replace(searched, causes=()), evidence)
        return of_stage_alone if of_stage_alone.causes else searched
    if all(cause.where for cause in searched.causes):  # also if no time was left for a search
        return _with_statements(searched, evidence)
    if evidence.stage is None or int(evidence.is_wrong.sum()) >= SURE_ROWS:
        return searched
    of_stage = _with_statements(dataclasses.replace(searched, causes=()), evidence)
    return dataclasses.replace(searched, weaker=of_stage.causes, faults=of_stage.faults)


def may_contradict(searched: CallDiagnosis, evidence: Evidence) -> bool:
    """Tell whether causes speak of the output or of weights, and other numbers are wrong first.

    Scales of activations, ids or router weights that are wrong may give the same output.
    """
    wrong = evidence.stage
    if wrong is None or wrong.noun == "elements" or not searched.causes:
        return False
    return all(cause.name in OF_ANY_STAGE for cause in searched.causes)


def _with_stage_pattern(searched: CallDiagnosis, evidence: Evidence) -> CallDiagnosis:
    """Return the diagnosis with what wrong rows and elements of the first wrong stage share."""
    patterns, faults = list(searched.patterns), list(searched.faults)
    for name, patterns_of in (("stage_rows", of_stage), ("which_elements", elements_of)):
        try:
            patterns += patterns_of(evidence)
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {error}")
    return dataclasses.replace(searched, patterns=tuple(patterns), faults=tuple(faults))


def _with_weaker(searched: CallDiagnosis, evidence: Evidence) -> CallDiagnosis:
    """Return the diagnosis with what holds of the output even if its causes turn out not to."""
    try:
        own = which_shares.factors_of_each_row(evidence.shares[0]) if evidence.shares else None
    except Exception as error:
        fault = f"weaker statement: {type(error).__name__}: {error}"
        return dataclasses.replace(searched, faults=(*searched.faults, fault))
    if own is None:
        return searched
    return dataclasses.replace(searched, weaker=(*searched.weaker, own))


def _with_statements(
    searched: CallDiagnosis, evidence: Evidence, table: Sequence[Explanation] = EXPLANATIONS
) -> CallDiagnosis:
    """Return the diagnosis with what the structure of the errors says, if that says anything.

    What explains all rows and columns comes first. table: the kinds of statements.
    """
    statements, faults = explanations(evidence, table)
    ranked = sorted((*searched.causes, *statements), key=lambda cause: bool(cause.where))
    return dataclasses.replace(
        searched,
        causes=tuple(ranked)[:MOST_CAUSES],
        faults=(*searched.faults, *faults),
    )


def _patterns(scene: Scene, mismatch: Mismatch, topk_ids: Tensor) -> list[Pattern]:
    case = scene.case
    all_tokens = len(case.layout.same_tokens(scene.rank)) == case.world_size
    by_routing = routing_patterns.of_routing(
        mismatch.rows, topk_ids, case.layer_spec, scene.rank, all_tokens=all_tokens
    )
    return [*by_routing, *patterns.of_rows(mismatch.rows), *patterns.of_columns(mismatch)]


def _search(evidence: Evidence, likely: Sequence[str], end: float | None) -> causes.Search:
    end = time.monotonic() + causes.SECONDS if end is None else end

    def search(hypotheses: Sequence[Hypothesis]) -> causes.Search:
        return causes.search(evidence, hypotheses, end - time.monotonic())

    wrong = evidence.stage
    stage, noun = (None, "elements") if wrong is None else (wrong.stage, wrong.noun)
    possible = [h for h in HYPOTHESES if h.may_show_in(stage, noun)]
    likely_hypotheses = [h for h in possible if h.name in likely]
    result = search(likely_hypotheses) if likely_hypotheses else None
    return result if result is not None and result.causes else search(possible)


def _with_causes(explained: CallDiagnosis, search: causes.Search) -> CallDiagnosis:
    return dataclasses.replace(
        explained,
        causes=search.causes[:MOST_CAUSES],
        tried=search.tried,
        not_applicable=search.not_applicable,
        untried=search.untried,
        closest=None if search.closest is None else number(search.closest),
        faults=search.faults,
    )
