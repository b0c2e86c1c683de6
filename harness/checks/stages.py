"""The first stage that departs: each one is fed with what the member itself had just before.

So a stage's bound has no room for what happens elsewhere, and the first finding is where the
fault lies. Stages that nobody hands out are judged by the output alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks import stages_collectives, stages_experts
from harness.checks.agreement import names_on_all_ranks
from harness.checks.check import Check, Observation
from harness.checks.stage_record import handed_out
from harness.matrix.exactness import is_bitwise
from harness.record.result import Finding, Topic, Verdict
from moe.intermediates import STAGES

if TYPE_CHECKING:
    from harness.checks.stage_bound import StageFinding
    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.fixtures.rank_context import RankContext

ORDER = ("dispatch", *STAGES)


def check(subject: Subject, call: Call, context: RankContext) -> tuple[StageFinding, ...]:
    """Collective, on a sample of rows where all would cost too much. In order of the stages.

    Between ranks a stage is judged only where all of them hand it out.
    """
    shared = names_on_all_ranks(subject.layer.groups, call.stages, STAGES, context.device)
    if "ids" not in call.stages:
        return ()
    handed = handed_out(subject, call, context.rank, exact=is_bitwise(subject.case))
    between = stages_collectives.check(handed, shared) if "ids" in shared else []
    return _ordered([*between, *stages_experts.check(handed)])


def inside(
    subject: Subject, call: Call, context: RankContext, *, every: bool
) -> tuple[StageFinding, ...]:
    """The stages inside the experts; not collective. every: on all rows, as for one that failed."""
    if "ids" not in call.stages:
        return ()
    handed = handed_out(subject, call, context.rank, exact=is_bitwise(subject.case))
    return _ordered(stages_experts.check(handed, every=every))


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Collective. Judge the second call's stages, between ranks, too: the smaller one."""
    call = observation.calls[1]
    found = check(observation.subject, call, observation.context)
    return tuple(_finding(CHECK.name, call, stage) for stage in found)


def could_be_read(observation: Observation) -> bool:
    """Whether the stages are such that they can be judged; `findings` raised where they are not."""
    return not any(
        finding.check == CHECK.name and finding.verdict is Verdict.ERROR
        for finding in observation.findings
    )


def findings_inside(observation: Observation) -> tuple[Finding, ...]:
    """Judge the stages inside the experts of the calls that `findings` says nothing of.

    The first call's on some rows, a failed one's on all of them. What departs in both of the first
    two calls is reported for the second; of all others it is evidence for the diagnosis.
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
    """Numbers of the calls to look into."""
    second_departs = _has_stage(observation, observation.calls[1])
    return [
        call.number
        for call in observation.calls
        if not _has_stage(observation, call)
        and (observation.has_failed(call) or (call.number == 0 and not second_departs))
    ]


def _inside(observation: Observation, number: int) -> tuple[StageFinding, ...]:
    call, context = observation.calls[number], observation.context
    departing: tuple[StageFinding, ...] = ()
    if number == 0 and not _has_stage(observation, observation.calls[1]):
        departing = inside(observation.subject, call, context, every=False)
    if not departing and observation.has_failed(call):
        departing = inside(observation.subject, call, context, every=True)
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


def _ordered(found: list[StageFinding]) -> tuple[StageFinding, ...]:
    return tuple(sorted(found, key=lambda finding: ORDER.index(finding.stage)))


CHECK = Check(name="stages", run=findings, collective=True, phase="stages")
INSIDE = Check(name="stages_inside", run=findings_inside, applies=could_be_read, phase="stages")
NAMES = (CHECK.name, INSIDE.name)
