"""Whether the router chose right: a stage of its own, before any expert is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation, where
from harness.record.result import Finding
from moe.reference import routing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.fixtures.layer_call import Call
    from harness.matrix.case import MoETestConfig


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Check each call's ids and weights against its logits."""
    case = observation.subject.case
    return tuple(
        Finding(check=CHECK.name, call=call.number, text=where(call) + text)
        for call in observation.calls
        for text in _complaints(call, case)
    )


def _complaints(call: Call, case: MoETestConfig) -> Iterator[str]:
    chosen = call.output.routing
    yield from routing.routing_errors(
        *(call.tokens.logits, chosen.topk_ids, chosen.topk_weights),
        renormalize=case.renormalize,
        router=case.router,
    )


CHECK = Check(name="routing", run=findings)
