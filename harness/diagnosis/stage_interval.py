"""Say where the first wrong stage may be, if none that was recorded is wrong by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.record.diagnosis import Pattern
from moe.intermediates import EXPERT_INPUTS, STAGES

if TYPE_CHECKING:
    from collections.abc import Collection

    from harness.fixtures.layer_call import Call

NAME = "stage_interval"
INSIDE = tuple(stage for stage in STAGES if stage not in EXPERT_INPUTS)


def interval_of(call: Call, *, is_routing_right: bool) -> Pattern | None:
    """Return where a wrong output may come from; None if the routing is wrong. No stage is.

    is_routing_right: whether no check had a finding about the router's ids and weights.
    """
    if not is_routing_right:
        return None
    text = interval_text(call.stages, tells_routing=call.routed is not None)
    return Pattern(name=NAME, text=text)


def interval_text(recorded: Collection[str], *, tells_routing: bool) -> str:
    """Return the stages that may be wrong. recorded: names. tells_routing: the router is judged."""
    known = [stage for stage in INSIDE if stage in recorded]
    if known:
        return (
            f"no recorded stage is wrong by itself ({', '.join(known)}): the first wrong stage is "
            "one that is not recorded, or between ranks in the first call, where it is not judged"
        )
    if tells_routing:
        return "the first wrong stage is after the routing, which is right: no other is recorded"
    return "the first wrong stage is the routing or anything after it: none is recorded"
