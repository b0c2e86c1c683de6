"""Find the first wrong stage: each stage is recomputed from the member's own previous stage.

So the tolerance of a stage covers its own noise only, and the first finding names the faulty stage.
Stages that no member records are judged by the output alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks import stages_collectives, stages_experts
from harness.checks.agreement import names_on_all_ranks
from harness.checks.check import FAILED_CALLS, Check, Observation
from harness.checks.stage_record import handed_out
from harness.matrix.exactness import is_bitwise
from harness.record.result import Finding, Topic, Verdict
from moe.intermediates import STAGES

if TYPE_CHECKING:
    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.fixtures.rank_context import RankContext
    from harness.record.diagnosis import StageFinding

ORDER = ("dispatch", *STAGES)


def check(subject: Subject, call: Call, context: RankContext) -> tuple[StageFinding, ...]:
    """Return the wrong stages of a call in order, from a sample of rows if all cost too much.

    Collective. Between ranks a stage is judged only where all of them hand it out.
    """
    shared = names_on_all_ranks(call.stages, STAGES, context.world_size)
    handed = handed_out(subject, call, context.rank, exact=is_bitwise(subject.case))
    between = stages_collectives.check(handed, shared)
    within = stages_experts.check(handed) if "ids" in call.stages else []
    return _ordered([*between, *within])


def inside(
    subject: Subject, call: Call, context: RankContext, *, all_rows: bool
) -> tuple[StageFinding, ...]:
    """Return the wrong stages inside the experts. Not collective. all_rows: instead of a sample."""
    if "ids" not in call.stages:
        return ()
    handed = handed_out(subject, call, context.rank, exact=is_bitwise(subject.case))
    return _ordered(stages_experts.check(handed, all_rows=all_rows))


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Judge all stages of the second, smaller call, those between ranks included. Collective."""
    call = observation.calls[1]
    departing = check(observation.subject, call, observation.context)
    return tuple(_finding(CHECK.name, call, stage) for stage in departing)


def are_finite(observation: Observation) -> bool:
    """Tell whether no stage holds the NaN of a router.

    Between ranks such rows cannot be told from others whose values are wrong.
    """
    return observation.subject.case.logits != "nan"


def are_finite_inside(observation: Observation) -> bool:
    """Tell whether the experts' rows without a NaN weight do not depend on those with one."""
    case = observation.subject.case
    return case.logits != "nan" or not case.weights_input


def could_be_read(observation: Observation) -> bool:
    """Tell whether the recorded stages were readable: `findings` raised no exception."""
    return are_finite_inside(observation) and not any(
        finding.check == CHECK.name and finding.verdict is Verdict.ERROR
        for finding in observation.findings
    )


def findings_inside(observation: Observation) -> tuple[Finding, ...]:
    """Judge the stages inside the experts of calls without a stage finding.

    Check stages per call: call 2 fully, call 1 inside the experts only. A finding in both is
    reported for call 2. The failed calls that the diagnosis examines are checked on all rows.
    """
    by_call = {call: _inside(observation, call) for call in _unexplained(observation)}
    second = observation.calls[1]
    reported = 1 if by_call.get(1) or _has_stage(observation, second) else 0
    return tuple(
        _finding(INSIDE.name, observation.calls[number], stage, reported=number == reported)
        for number, departing in by_call.items()
        for stage in departing
    )


def _unexplained(observation: Observation) -> list[int]:
    """Return the numbers of the calls whose stages inside the experts are still to be judged."""
    numbers = {call.number for call in observation.failed_calls[:FAILED_CALLS]}
    if not _has_stage(observation, observation.calls[1]):
        numbers.add(0)
    return [
        call.number
        for call in observation.calls
        if call.number in numbers and not _has_stage(observation, call)
    ]


def _inside(observation: Observation, number: int) -> tuple[StageFinding, ...]:
    call, context = observation.calls[number], observation.context
    departing: tuple[StageFinding, ...] = ()
    if number == 0 and not _has_stage(observation, observation.calls[1]):
        departing = inside(observation.subject, call, context, all_rows=False)
    if not departing and observation.has_failed(call):
        departing = inside(observation.subject, call, context, all_rows=True)
    return departing


def _has_stage(observation: Observation, call: Call) -> bool:
    return any(finding.check in NAMES for finding in observation.of(call))


def _finding(check: str, call: Call, stage: StageFinding, *, reported: bool = True) -> Finding:
    return Finding(
        check=check,
        call=call.number,
        stage=stage.stage,
        text=str(stage),
        verdict=Verdict.FAILED if reported else Verdict.PASSED,
        topic=Topic.STAGES,
        detail=stage,
    )


def _ordered(departing: list[StageFinding]) -> tuple[StageFinding, ...]:
    return tuple(sorted(departing, key=lambda finding: ORDER.index(finding.stage)))


CHECK = Check(name="stages", run=findings, applies=are_finite, collective=True, phase="stages")
INSIDE = Check(name="stages_inside", run=findings_inside, applies=could_be_read, phase="stages")
NAMES = (CHECK.name, INSIDE.name)
