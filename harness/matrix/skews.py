"""Name the ways in which ranks are late in turn, and refuse them where nobody waits. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.spec import Reason

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig

NO_SKEW = "none"
BEFORE_CALLS = "calls"
BEFORE_COLLECTIVES = "collectives"
SKEWS = (NO_SKEW, BEFORE_CALLS, BEFORE_COLLECTIVES)


def skew_refusal(case: MoETestConfig) -> Reason | None:
    """Return why no rank can be late in this case, or None."""
    if case.skew == NO_SKEW or case.world_size > 1:
        return None
    text = f"skew: one rank waits for no other; use dp or tp above 1, or leave skew:{case.skew} out"
    return Reason(code="skew_of_one_rank", text=text)
