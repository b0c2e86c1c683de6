"""Check the router's choice, a stage of its own that is judged before any expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation, call_prefix
from harness.fixtures.routing_truth import routing_truth
from harness.record.result import Finding

if TYPE_CHECKING:
    from harness.fixtures.layer_call import Call
    from moe.reference.routing import RoutingTruth


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Check each call's ids and weights against its logits."""
    truth = routing_truth(observation.subject.case, observation.context.device)
    return tuple(
        Finding(check=CHECK.name, call=call.number, text=call_prefix(call) + text)
        for call in observation.calls
        for text in _messages(call, truth)
    )


def _messages(call: Call, truth: RoutingTruth) -> list[str]:
    selection = call.output.routing
    return truth.errors(call.tokens.logits, selection.topk_ids, selection.topk_weights)


CHECK = Check(name="routing", run=findings, by_reference=False)
