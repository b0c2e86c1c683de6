"""Check the router's choice, a stage of its own that is judged before any expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.assumed_roundings import explained
from harness.checks.check import Check, Observation, call_prefix
from harness.fixtures import fused_slots
from harness.fixtures.routing_truth import judging_truths, stated_roundings
from harness.fixtures.undefined_rows import defined_rows
from harness.record.result import Finding, Verdict
from moe.reference.routing import fused_errors
from moe.router_numerics import declaration
from moe.routers import ROUTERS

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_call import Call, Routed
    from harness.fixtures.layer_under_test import Subject
    from moe.reference.routing import RoutingTruth

UNSTATED = "its row states no `rounding`, and no customary one explains every token"
_SHOWS = "of which one has a weight of NaN"


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Check each call's ids and weights against its logits.

    If the router's row states no roundings, customary ones are tried: one must explain all calls on
    all ranks. Collective then.
    """
    subject = observation.subject
    if not ROUTERS.row(subject.case.router).is_judged:
        return ()
    device = observation.context.device
    names = [declaration(stated) for stated in stated_roundings(subject.case, device).values()]
    truths = judging_truths(subject.case, device)
    judged = explained(observation, truths, names, _messages)
    hint = f"; {UNSTATED}" if len(truths) > 1 else ""
    wrong = [
        Finding(check=CHECK.name, call=call.number, text=f"{call_prefix(call)}{text}{suffix}")
        for call, routed in zip(observation.calls, judged.texts, strict=True)
        for text, suffix in (
            *((text, hint) for text in routed),
            *((text, "") for text in _fused_messages(call, subject)),
        )
    ]
    if judged.differing is not None:
        wrong.append(Finding(check=CHECK.name, text=f"routing: {judged.differing}"))
    if any(judged.texts) or judged.differing or len(truths) == 1 or judged.truth.numerics.is_plain:
        return tuple(wrong)
    return (*wrong, Finding(check=CHECK.name, verdict=Verdict.PASSED, detail=judged.truth))


def assumed(observation: Observation) -> str | None:
    """Return the roundings that were assumed of a router that is not right without them."""
    if observation.hides_routing:
        return _assumed_of_hidden(observation)
    of_check = (finding for finding in observation.findings if finding.check == CHECK.name)
    truth = next((f.detail for f in of_check if f.verdict is Verdict.PASSED), None)
    if truth is None:
        return None
    tried = stated_roundings(observation.subject.case, observation.context.device)
    return declaration(tried[truth.numerics])


def _assumed_of_hidden(observation: Observation) -> str | None:
    """Return the roundings under which a silent layer that hides its routing was judged, or None.

    They are other than none only if these explain what float32 does not.
    """
    subject = observation.subject
    if len(subject.roundings) == 1 or subject.rounding.is_plain:
        return None
    customary = stated_roundings(subject.case, observation.context.device, silent=True)
    return declaration(customary[subject.rounding])


def _messages(call: Call, truth: RoutingTruth) -> list[str]:
    """Judge the rows whose output is defined, or else those whose logits hold a NaN.

    A hidden routing is the reference's own.
    """
    if call.routed is None:
        return []
    selection, rows, k = call.output.routing, defined_rows(call.tokens), truth.method.top_k
    errors = truth.errors(
        *(call.tokens.logits[rows], selection.topk_ids[rows, :k]),
        selection.topk_weights[rows, :k],
    )
    as_zero = ROUTERS.row(truth.method.router).nan_as_zero
    return errors or _hidden_nans(call.routed, k, as_zero=as_zero)


def _hidden_nans(routed: Routed, k: int, *, as_zero: bool) -> list[str]:
    """Return a message if a row of NaN logits has invalid ids, or weights like any other row.

    Its ids must be distinct experts of which one at least has a weight of NaN; or all are -1.
    as_zero: its router's row states that these weights are 0 instead.
    """
    tokens, ids = routed.tokens, routed.routing.topk_ids[:, :k]
    weights = routed.routing.topk_weights[:, :k]
    is_nan = tokens.logits.isnan().any(dim=1)
    if tokens.is_padding is not None:
        is_nan &= ~tokens.is_padding
    ordered = ids.sort(dim=1).values
    is_routed = (ordered[:, 0] >= 0) & (ordered[:, -1] < tokens.logits.shape[1])
    is_routed &= (ordered[:, 1:] > ordered[:, :-1]).all(dim=1)
    shows = is_routed & ((weights == 0).all(dim=1) if as_zero else weights.isnan().any(dim=1))
    bad = (is_nan & ~shows & ~(ids == -1).all(dim=1)).nonzero().flatten().tolist()
    if not bad:
        return []
    row = bad[0]
    pair = f"{ids[row].tolist()} with weights {weights[row].tolist()}"
    what = "with weights of 0, as the router's row states (`nan_as_zero`)" if as_zero else _SHOWS
    return [
        f"routing: {len(bad)} tokens whose logits hold a NaN hide it, first token {row}: {pair}; "
        f"choose distinct experts {what}, or -1 only"
    ]


def _fused_messages(call: Call, subject: Subject) -> list[str]:
    """Return what is wrong in the slots of fused shared experts, after those of the router."""
    case, k = subject.case, subject.case.top_k
    if not case.shared_fused:
        return []
    rows = defined_rows(call.tokens)
    routing = call.output.routing
    ids, weights = routing.topk_ids[rows], routing.topk_weights[rows]
    expected_ids = fused_slots.with_ids(case, ids[:, :k])
    factor = fused_slots.with_weights(case, call.tokens.x[rows], weights[:, :k], subject.reference)
    misplaced = None
    if ids.shape == expected_ids.shape:
        misplaced = _misplaced((ids, weights), (expected_ids[:, k:], factor[:, k:]))
    return [misplaced] if misplaced else fused_errors((ids, weights), (expected_ids, factor))


def _misplaced(routing: tuple[Tensor, Tensor], shared: tuple[Tensor, Tensor]) -> str | None:
    """Return a message if ids or weights of fused shared experts are all in other slots.

    routing: ids and weights [T, k + s]. shared: those of the s fused shared experts, [T, s].
    """
    (ids, weights), (shared_ids, shared_weights) = routing, shared
    count, last = shared_ids.shape[1], ids.shape[1] - shared_ids.shape[1]
    starts = range(last + 1)
    of_ids = [p for p in starts if torch.equal(ids[:, p : p + count].long(), shared_ids.long())]
    of_weights = [
        p for p in starts if torch.allclose(weights[:, p : p + count], shared_weights, rtol=1e-5)
    ]
    if len(ids) == 0 or not of_ids or not of_weights or (last in of_ids and last in of_weights):
        return None
    places = [_slots(start, count) for start in (of_ids[0], of_weights[-1], last)]
    return (
        f"routing: the ids of the fused shared experts are in {places[0]} and their weights in "
        f"{places[1]}; both must be in {places[2]}, after the router's"
    )


def _slots(start: int, count: int) -> str:
    return f"slot {start}" if count == 1 else f"slots {start}-{start + count - 1}"


CHECK = Check(name="routing", run=findings, by_reference=False, collective=True)
