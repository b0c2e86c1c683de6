"""The first stage that departs: each one is fed with what the member itself had just before.

So a stage's bound has no room for what happens elsewhere, and the first finding is where the
fault lies. Stages that nobody hands out are judged by the output alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import stage_experts, stage_ranks
from harness.bitwise import is_bitwise
from harness.handed import handed_out
from moe.trace import STAGES

if TYPE_CHECKING:
    from harness.context import RankContext
    from harness.scene import Call
    from harness.subject import Subject
    from harness.tight import StageFinding

ORDER = ("dispatch", *STAGES)


def check(subject: Subject, call: Call, context: RankContext) -> tuple[StageFinding, ...]:
    """Collective, on a sample of rows where all would cost too much. In order of the stages."""
    if "ids" not in call.stages:
        return ()
    handed = handed_out(subject, call, context.rank, exact=is_bitwise(subject.case))
    return _ordered([*stage_ranks.check(handed), *stage_experts.check(handed)])


def inside(
    subject: Subject, call: Call, context: RankContext, *, every: bool
) -> tuple[StageFinding, ...]:
    """The stages inside the experts; not collective. every: on all rows, as for one that failed."""
    if "ids" not in call.stages:
        return ()
    handed = handed_out(subject, call, context.rank, exact=is_bitwise(subject.case))
    return _ordered(stage_experts.check(handed, every=every))


def _ordered(found: list[StageFinding]) -> tuple[StageFinding, ...]:
    return tuple(sorted(found, key=lambda finding: ORDER.index(finding.stage)))
