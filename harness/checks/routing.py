"""Check the router's choice, a stage of its own that is judged before any expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation, call_prefix
from harness.fixtures.routing_truth import routing_truth
from harness.fixtures.undefined_rows import defined_rows
from harness.record.result import Finding

if TYPE_CHECKING:
    from harness.fixtures.layer_call import Call, Routed
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
    """Judge the rows whose output is defined, or else those whose logits hold a NaN."""
    selection, rows = call.output.routing, defined_rows(call.tokens)
    errors = truth.errors(
        call.tokens.logits[rows], selection.topk_ids[rows], selection.topk_weights[rows]
    )
    return errors or ([] if call.routed is None else _hidden_nans(call.routed))


def _hidden_nans(routed: Routed) -> list[str]:
    """Return a message if a row of NaN logits has invalid ids, or weights like any other row.

    Its ids must be distinct experts of which one at least has a weight of NaN; or all are -1.
    """
    tokens, ids = routed.tokens, routed.routing.topk_ids
    is_nan = tokens.logits.isnan().any(dim=1)
    if tokens.is_padding is not None:
        is_nan &= ~tokens.is_padding
    ordered = ids.sort(dim=1).values
    is_routed = (ordered[:, 0] >= 0) & (ordered[:, -1] < tokens.logits.shape[1])
    is_routed &= (ordered[:, 1:] > ordered[:, :-1]).all(dim=1)
    shows = is_routed & routed.routing.topk_weights.isnan().any(dim=1)
    bad = (is_nan & ~shows & ~(ids == -1).all(dim=1)).nonzero().flatten().tolist()
    if not bad:
        return []
    row = bad[0]
    pair = f"{ids[row].tolist()} with weights {routed.routing.topk_weights[row].tolist()}"
    return [
        f"routing: {len(bad)} tokens whose logits hold a NaN hide it, first token {row}: {pair}; "
        "choose distinct experts of which one has a weight of NaN, or -1 only"
    ]


CHECK = Check(name="routing", run=findings, by_reference=False)
