"""Say where the first wrong stage may be, if none that was recorded is wrong by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.stages_collectives import ARRIVED
from harness.record.diagnosis import STAGE_INTERVAL, Pattern
from moe.intermediates import STAGES

if TYPE_CHECKING:
    from collections.abc import Collection

    from harness.fixtures.layer_call import Call

INSIDE = ("gemm1", "activation", "second", "gemm2", "weighted")  # the experts; they end in combine
AFTER = STAGES[STAGES.index("finalize") :]
NEEDED = {  # stages from which one after the experts is judged, beside itself
    "finalize": {*ARRIVED, "combine"},
    "restored": {"finalize"},
    "out": {"finalize"},
}


def interval_of(call: Call, *, is_routing_right: bool, has_finite: bool = True) -> Pattern | None:
    """Return where a wrong output may come from; None if the routing is wrong. No stage is.

    is_routing_right: whether no check had a finding about the router's ids and weights. has_finite:
    whether the stages between ranks were judged, which those of logits with NaN are not.
    """
    if not is_routing_right:
        return None
    later = judged_after(call.stages) if call.number == 1 and has_finite else []
    text = interval_text(call.stages, later, tells_routing=call.routed is not None)
    return Pattern(name=STAGE_INTERVAL, text=text)


def judged_after(recorded: Collection[str]) -> list[str]:
    """Return the stages after the experts that were judged, of the recorded ones."""
    return [name for name in AFTER if name in recorded and NEEDED.get(name, set()) <= set(recorded)]


def interval_text(recorded: Collection[str], later: Collection[str], *, tells_routing: bool) -> str:
    """Return the stages that may be wrong, in words.

    recorded: names of stages. later: those after the experts that were judged, which are right;
    stages between ranks are judged in the second call only. tells_routing: the router is judged.
    """
    inside = [stage for stage in INSIDE if stage in recorded]
    right = [*inside, *later]
    known = f"; {', '.join(right)} {'are' if len(right) > 1 else 'is'} right" if right else ""
    first = "after the routing, which is right" if tells_routing else "the routing or after it"
    if inside:
        return f"the first wrong stage is none that was judged{known}"
    if "finalize" in later:
        first += ", and before finalize"
    elif "out" in later:
        first += ", up to finalize"
    return f"the first wrong stage is {first}: the experts record none of theirs{known}"
