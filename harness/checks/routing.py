"""Check the router's choice, a stage of its own that is judged before any expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation, call_prefix
from harness.fixtures import fused_slots
from harness.fixtures.routing_truth import routing_truth
from harness.record.result import Finding
from moe.reference.routing import fused_errors

if TYPE_CHECKING:
    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from moe.reference.routing import RoutingTruth


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Check each call's ids and weights against its logits."""
    subject = observation.subject
    truth = routing_truth(subject.case, observation.context.device)
    return tuple(
        Finding(check=CHECK.name, call=call.number, text=call_prefix(call) + text)
        for call in observation.calls
        for text in (*_messages(call, truth), *_fused_messages(call, subject))
    )


def _messages(call: Call, truth: RoutingTruth) -> list[str]:
    selection, k = call.output.routing, truth.method.top_k
    return truth.errors(
        call.tokens.logits, selection.topk_ids[:, :k], selection.topk_weights[:, :k]
    )


def _fused_messages(call: Call, subject: Subject) -> list[str]:
    """Return what is wrong in the slots of fused shared experts, after those of the router."""
    case, k = subject.case, subject.case.top_k
    ids, weights = call.output.routing.topk_ids, call.output.routing.topk_weights
    if not case.shared_fused:
        return []
    right = fused_slots.with_ids(case, ids[:, :k])
    factor = fused_slots.with_weights(case, call.tokens.x, weights[:, :k], subject.reference)
    return fused_errors((ids, weights), (right, factor))


CHECK = Check(name="routing", run=findings, by_reference=False)
