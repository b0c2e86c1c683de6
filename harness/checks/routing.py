"""Check the router's choice, a stage of its own that is judged before any expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation, call_prefix
from harness.fixtures import true_routing
from harness.record.result import Finding
from moe.reference import routing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Check each call's ids and weights against its logits."""
    return tuple(
        Finding(check=CHECK.name, call=call.number, text=call_prefix(call) + text)
        for call in observation.calls
        for text in _messages(call, observation.subject)
    )


def _messages(call: Call, subject: Subject) -> Iterator[str]:
    case, selection = subject.case, call.output.routing
    ids, weights = selection.topk_ids, selection.topk_weights
    yield from routing.routing_errors(
        *(call.tokens.logits, ids[:, : case.top_k], weights[:, : case.top_k]),
        renormalize=case.renormalize,
        router=case.router,
    )
    if case.shared_fused:
        x, reference = call.tokens.x, subject.reference
        right = true_routing.with_fused(case, ids[:, : case.top_k])
        factor = true_routing.with_fused_weights(case, x, weights[:, : case.top_k], reference)
        yield from routing.fused_errors((ids, weights), (right, factor))


CHECK = Check(name="routing", run=findings, by_reference=False)
