"""The first stage that departs: each one is fed with what the member itself had just before.

So a stage's bound has no room for what happens elsewhere, and the first finding is where the
fault lies. Stages that nobody hands out are judged by the output alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks import stages_collectives, stages_experts
from harness.checks.stage_record import handed_out
from harness.matrix.exactness import is_bitwise
from moe.intermediates import STAGES

if TYPE_CHECKING:
    from harness.checks.stage_bound import StageFinding
    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.fixtures.rank_context import RankContext

ORDER = ("dispatch", *STAGES)


def check(subject: Subject, call: Call, context: RankContext) -> tuple[StageFinding, ...]:
    """Collective, on a sample of rows where all would cost too much. In order of the stages."""
    if "ids" not in call.stages:
        return ()
    handed = handed_out(subject, call, context.rank, exact=is_bitwise(subject.case))
    return _ordered([*stages_collectives.check(handed), *stages_experts.check(handed)])


def inside(
    subject: Subject, call: Call, context: RankContext, *, every: bool
) -> tuple[StageFinding, ...]:
    """The stages inside the experts; not collective. every: on all rows, as for one that failed."""
    if "ids" not in call.stages:
        return ()
    handed = handed_out(subject, call, context.rank, exact=is_bitwise(subject.case))
    return _ordered(stages_experts.check(handed, every=every))


def _ordered(found: list[StageFinding]) -> tuple[StageFinding, ...]:
    return tuple(sorted(found, key=lambda finding: ORDER.index(finding.stage)))
