"""What is wrong with one call on one rank: how much, where, in which pattern, and why.

The report makes the message of it. Nothing here changes a verdict.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from harness.diagnosis import causes, error_image, patterns, routing_patterns
from harness.diagnosis.error_stats import facts, number
from harness.mutants import HYPOTHESES
from harness.mutants.sample import scene_of
from harness.record.diagnosis import CallDiagnosis, Diagnosis, NamedCause, Stage
from harness.record.result import Topic
from harness.report import png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.checks.check import Observation
    from harness.diagnosis.patterns import Pattern, Wrong
    from harness.fixtures.layer_call import Call
    from harness.mutants import Hypothesis
    from harness.mutants.sample import Scene
    from harness.record.result import Finding

MOST_CAUSES = 3
MOST_CALLS = 3  # diagnosed of each rank: a case of few tokens has many calls


def diagnose(observation: Observation) -> Diagnosis | None:
    """Return this rank's diagnosis, of its first MOST_CALLS failed calls; None when none failed.

    Never raises: a fault of the diagnosis is told in its place, and the verdict stands.
    """
    found: list[CallDiagnosis] = []
    end = time.monotonic() + causes.SECONDS
    failed = [call for call in observation.calls if observation.has_failed(call)]
    for call in failed[:MOST_CALLS]:
        try:
            found.append(_one(observation, call, before=found, end=end))
        except Exception as fault:
            text = f"{type(fault).__name__}: {fault}"
            found.append(CallDiagnosis(call=call.number, fault=text))
    if not failed:
        return None
    return Diagnosis(
        rank=observation.context.rank,
        failed=tuple(call.number for call in failed),
        of=len(observation.calls),
        every_call=all(_looked_at_everywhere(one, len(observation.calls)) for one in found),
        calls=tuple(found),
    )


def _looked_at_everywhere(one: CallDiagnosis, calls: int) -> bool:
    """Whether the other calls would have failed with this one's fault.

    Outputs are judged in every call; stages in the second, and in the first where the second has
    no finding; what else is looked at, in one call only.
    """
    return one.output or (one.call == 0 and calls == 2 and bool(one.stages))


def _one(
    observation: Observation, call: Call, *, before: Sequence[CallDiagnosis], end: float
) -> CallDiagnosis:
    """`explain`, and a picture if the run's options name a folder."""
    subject, context = observation.subject, observation.context
    scene = scene_of(subject.case, context.rank, call, subject.reference)
    likely = tuple(cause.name for known in before for cause in known.causes)
    found = explain(scene, call, observation.of(call), likely=likely, end=end)
    folder = context.options.get("pictures")
    if folder and found.wrong_rows:
        name = png.stem(subject.case.id, f"rank{context.rank}-call{call.number + 1}")
        try:
            picture = error_image.save_rows(call, str(folder), name)
            return dataclasses.replace(found, picture=picture)
        except OSError as fault:
            return dataclasses.replace(found, picture_fault=f"{type(fault).__name__}: {fault}")
    return found


def explain(
    scene: Scene,
    call: Call,
    findings: Sequence[Finding],
    *,
    likely: Sequence[str] = (),
    end: float | None = None,
) -> CallDiagnosis:
    """Return one call's diagnosis, without its picture.

    findings: of this call. likely: names of causes to look at first; where one of them fits, no
    other is tried. end: on time.monotonic()'s clock, when to stop looking for causes; None:
    causes.SECONDS from now.
    """
    output, answer = call.output.out, call.answer
    wrong = patterns.find_wrong(output, answer)
    # Where no row is wrong, only words say what is.
    topics = (Topic.VALUES, Topic.STAGES, *((Topic.ROWS,) if bool(wrong.rows.any()) else ()))
    metrics = {name: value for finding in findings for name, value in finding.metrics.items()}
    stages = (finding.detail for finding in findings if finding.topic is Topic.STAGES)
    found = CallDiagnosis(
        call=call.number,
        tokens=len(output),
        covers=topics,
        output=any(finding.topic in (Topic.ROWS, Topic.VALUES) for finding in findings),
        metrics={name: number(value) for name, value in metrics.items()},
        stages=tuple(Stage(**dataclasses.asdict(stage)) for stage in stages),
        facts=facts(output, answer.out, wrong),
    )
    if not found.output:
        return found
    ids = call.output.routing.topk_ids
    found = dataclasses.replace(
        found,
        experts=routing_patterns.shares(wrong.rows, ids, scene.case.num_experts),
        patterns=tuple(_patterns(scene, wrong, ids)),
    )
    return _with_causes(found, _search(scene, call, wrong, likely, end))


def _patterns(scene: Scene, wrong: Wrong, topk_ids: Tensor) -> list[Pattern]:
    case = scene.case
    whole = case.dp_size == 1 and not case.sequence_parallel
    by_routing = routing_patterns.of_routing(
        wrong.rows, topk_ids, case.problem, scene.rank, whole=whole
    )
    return [*by_routing, *patterns.of_rows(wrong.rows), *patterns.of_columns(wrong)]


def _search(
    scene: Scene, call: Call, wrong: Wrong, likely: Sequence[str], end: float | None
) -> causes.Search:
    end = time.monotonic() + causes.SECONDS if end is None else end

    def search(hypotheses: Sequence[Hypothesis]) -> causes.Search:
        return causes.search(scene, call, wrong, hypotheses, end - time.monotonic())

    few = [h for h in HYPOTHESES if h.name in likely]
    found = search(few) if few else None
    return found if found is not None and found.causes else search(HYPOTHESES)


def _with_causes(found: CallDiagnosis, search: causes.Search) -> CallDiagnosis:
    return dataclasses.replace(
        found,
        causes=tuple(
            NamedCause(name=c.name, cause=c.cause, residual=number(c.residual), where=c.where)
            for c in search.causes[:MOST_CAUSES]
        ),
        tried=search.tried,
        not_applicable=search.not_applicable,
        untried=search.untried,
        closest=None if search.closest is None else number(search.closest),
        faults=search.faults,
    )
