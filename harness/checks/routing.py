"""Check the router's choice, a stage of its own that is judged before any expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation, call_prefix
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
        Finding(check=CHECK.name, call=call.number, text=call_prefix(call) + text)
        for call in observation.calls
        for text in _messages(call, case)
    )


def _messages(call: Call, case: MoETestConfig) -> Iterator[str]:
    selection = call.output.routing
    yield from routing.routing_errors(
        *(call.tokens.logits, selection.topk_ids, selection.topk_weights),
        renormalize=case.renormalize,
        router=case.router,
    )


CHECK = Check(name="routing", run=findings, by_reference=False)
