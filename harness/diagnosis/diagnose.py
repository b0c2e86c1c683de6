"""Diagnose one call on one rank: how much is wrong, where, in which pattern, and why.

The result is plain data; `harness.report.failure_text` formats it. Verdicts are not changed.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from harness.diagnosis import causes, error_image, patterns, routing_patterns
from harness.diagnosis.error_stats import facts, number
from harness.mutants import HYPOTHESES
from harness.mutants.sample import scene_of
from harness.record.diagnosis import Diagnosis
from harness.record.result import Topic
from harness.report import png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.checks.check import Observation
    from harness.diagnosis.patterns import Mismatch, Pattern
    from harness.fixtures.layer_call import Call
    from harness.mutants import Hypothesis
    from harness.mutants.sample import Scene
    from harness.record.result import Finding

MOST_CAUSES = 3
MOST_CALLS = 3  # diagnosed of each rank: a case of few tokens has many calls


def diagnose(observation: Observation) -> Diagnosis | None:
    """Return this rank's diagnosis of its first MOST_CALLS failed calls; None if none failed.

    Never raises: an exception in the diagnosis is part of the result, and the verdict stands.
    """
    calls: list[dict[str, Any]] = []
    end = time.monotonic() + causes.SECONDS
    failed = [call for call in observation.calls if observation.has_failed(call)]
    for call in failed[:MOST_CALLS]:
        try:
            calls.append(_diagnose_call(observation, call, before=calls, end=end))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            calls.append({"call": call.number, "fault": text})
    if not failed:
        return None
    return Diagnosis(
        rank=observation.context.rank,
        failed=tuple(call.number for call in failed),
        of=len(observation.calls),
        every_call=all(_judged_in_every_call(call, len(observation.calls)) for call in calls),
        calls=tuple(calls),
    )


def _judged_in_every_call(call_diagnosis: dict[str, Any], calls: int) -> bool:
    """Tell whether what is wrong in this call was judged in the other calls, too.

    Outputs are judged in every call; stages in the second call, and in the first if the second has
    no finding; everything else in one call only.
    """
    if call_diagnosis.get("output"):
        return True
    return call_diagnosis["call"] == 0 and calls == 2 and bool(call_diagnosis.get("stages"))


def _diagnose_call(
    observation: Observation, call: Call, *, before: Sequence[dict[str, Any]], end: float
) -> dict[str, Any]:
    """Explain one call, and draw its errors if the run's options name a folder for pictures."""
    subject, context = observation.subject, observation.context
    scene = scene_of(subject.case, context.rank, call, subject.reference)
    likely = tuple(c["name"] for earlier in before for c in earlier.get("causes", ()))
    explained = explain(scene, call, observation.of(call), likely=likely, end=end)
    folder = context.options.get("pictures")
    if folder and explained["rows"]["wrong"]:
        name = png.stem(subject.case.id, f"rank{context.rank}-call{call.number + 1}")
        try:
            explained["picture"] = error_image.save_rows(call, str(folder), name)
        except OSError as error:
            explained["picture_fault"] = f"{type(error).__name__}: {error}"
    return explained


def explain(
    scene: Scene,
    call: Call,
    findings: Sequence[Finding],
    *,
    likely: Sequence[str] = (),
    end: float | None = None,
) -> dict[str, Any]:
    """Return one call's diagnosis, JSON-able; `call` counts from 0.

    Keys: output: whether the output itself is wrong. rows, columns, elements: how many are wrong.
    first, worst: elements. actual, expected: value ranges and NaN counts. experts: [wrong rows,
    rows] of each. patterns. causes: those that fit, best first. stages: the wrong ones, in order.
    covers: topics of the findings that this diagnosis replaces in the report.

    findings: of this call. likely: names of causes to try first; if one fits, no other is tried.
    end: time.monotonic() at which to stop searching causes; None: causes.SECONDS from now.
    """
    output, answer = call.output.out, call.answer
    mismatch = patterns.find_mismatch(output, answer)
    topics = [Topic.VALUES, Topic.STAGES]
    if bool(mismatch.rows.any()):  # else the finding's text is the only description
        topics.append(Topic.ROWS)
    metrics = {name: value for finding in findings for name, value in finding.metrics.items()}
    explained: dict[str, Any] = {"call": call.number, "tokens": len(output), "covers": topics}
    explained["output"] = any(finding.topic in (Topic.ROWS, Topic.VALUES) for finding in findings)
    explained["metrics"] = {name: number(value) for name, value in metrics.items()}
    stages = [finding.detail for finding in findings if finding.topic is Topic.STAGES]
    explained["stages"] = [dataclasses.asdict(stage) for stage in stages]
    explained |= facts(output, answer.out, mismatch)
    if not explained["output"]:
        return {**explained, "experts": {}, "patterns": [], "causes": []}
    ids = call.output.routing.topk_ids
    explained["experts"] = routing_patterns.shares(mismatch.rows, ids, scene.case.num_experts)
    explained["patterns"] = [dataclasses.asdict(p) for p in _patterns(scene, mismatch, ids)]
    return explained | _causes(scene, call, mismatch, likely, end)


def _patterns(scene: Scene, mismatch: Mismatch, topk_ids: Tensor) -> list[Pattern]:
    case = scene.case
    all_tokens = case.dp_size == 1 and not case.sequence_parallel
    layout = case.layout
    by_routing = routing_patterns.of_routing(
        mismatch.rows, topk_ids, layout, scene.rank, case.num_experts, all_tokens=all_tokens
    )
    return [*by_routing, *patterns.of_rows(mismatch.rows), *patterns.of_columns(mismatch)]


def _causes(
    scene: Scene, call: Call, mismatch: Mismatch, likely: Sequence[str], end: float | None
) -> dict[str, Any]:
    end = time.monotonic() + causes.SECONDS if end is None else end

    def search(hypotheses: Sequence[Hypothesis]) -> causes.Search:
        return causes.search(scene, call, mismatch, hypotheses, end - time.monotonic())

    likely_hypotheses = [h for h in HYPOTHESES if h.name in likely]
    result = search(likely_hypotheses) if likely_hypotheses else None
    if result is None or not result.causes:
        result = search(HYPOTHESES)
    named = [dataclasses.asdict(cause) for cause in result.causes[:MOST_CAUSES]]
    for cause in named:
        cause["residual"] = number(cause["residual"])
    return {
        "causes": named,
        "tried": result.tried,
        "not_applicable": result.not_applicable,
        "untried": result.untried,
        "closest": None if result.closest is None else number(result.closest),
        "faults": list(result.faults),
    }
