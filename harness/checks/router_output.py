"""Check what every router's output must be, whatever it computes: its form, and its row's promises.

It runs before the check against the reference, and alone for a function without a reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.check import Check, Observation, call_prefix
from harness.fixtures.routing_truth import stated_roundings
from harness.fixtures.undefined_rows import defined_rows
from harness.record.result import Finding
from moe.reference.formats import on_grid
from moe.routers import ROUTERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.matrix.case import MoETestConfig
    from moe.routers.base import RouterSpec

NOISE = 2.0**-18  # of a sum of weights, relative: each has 2**-20, see moe.reference.routing


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Check each call's ids and weights by themselves."""
    case = observation.subject.case
    return tuple(
        Finding(check=CHECK.name, call=call.number, text=call_prefix(call) + text)
        for call in observation.calls
        for text in messages_of(call, case)
    )


def messages_of(call: Call, case: MoETestConfig) -> list[str]:
    """Return what is wrong with a call's routing; empty for a layer that does not tell it."""
    if call.routed is None:
        return []
    routing, k = call.routed.routing, case.top_k
    texts = list(_form(routing.topk_ids, routing.topk_weights))
    rows = defined_rows(call.routed.tokens)
    if texts or len(rows) == 0:
        return texts
    ids, weights = routing.topk_ids[rows, :k].long(), routing.topk_weights[rows, :k].double()
    return [
        f"router output: {len(bad)} of {len(rows)} tokens {rule}, first token {int(rows[bad[0]])}: "
        f"{values[bad[0]].tolist()}"
        for rule, bad, values in _broken(ids, weights, case)
        if len(bad)
    ]


def _form(ids: Tensor, weights: Tensor) -> Iterator[str]:
    """Yield a message for another dtype or shape than the contract's."""
    if ids.dtype != torch.int32:
        yield f"router output: ids are {ids.dtype}; they must be torch.int32"
    if weights.dtype != torch.float32:
        yield f"router output: weights are {weights.dtype}; they must be torch.float32"
    if ids.shape != weights.shape:
        shapes = f"{list(ids.shape)} and {list(weights.shape)}"
        yield f"router output: ids and weights have shapes {shapes}; they must be equal"


def _broken(
    ids: Tensor, weights: Tensor, case: MoETestConfig
) -> Iterator[tuple[str, list[int], Tensor]]:
    """Yield each rule in words, the rows that break it, and the values to show."""
    row, experts, scale = ROUTERS.row(case.router), case.router_experts, case.router_scale
    outside = (ids < 0) | (ids >= experts)
    yield f"have ids outside of 0..{experts - 1}", _rows(outside.any(dim=1)), ids
    ordered = ids.sort(dim=1).values
    yield "choose an expert twice", _rows((ordered[:, 1:] == ordered[:, :-1]).any(dim=1)), ids
    odd = ~weights.isfinite() | (weights < 0)
    yield "have a weight that is negative, NaN or Inf", _rows(odd.any(dim=1)), weights
    total, noise = weights.sum(dim=1), scale * _sum_noise(weights, case, row)
    if case.renormalize or row.always_renormalizes:
        off = (total - scale).abs() > noise
        yield f"have weights that do not sum to {scale:g}", _rows(off), weights
    elif row.sums_to_one:
        off = total > scale + noise
        yield f"have weights that sum to more than {scale:g}", _rows(off), weights


def _sum_noise(weights: Tensor, case: MoETestConfig, row: RouterSpec) -> float:
    """Return the relative noise of a sum of weights [T, k], by stated or customary roundings.

    Those that round the weights at last, and are not stated, count only if all are on that grid.
    """
    renormalizes = case.renormalize or row.always_renormalizes
    tried = stated_roundings(case, weights.device)
    fitting = (
        numerics
        for numerics in tried
        if len(tried) == 1 or torch.equal(on_grid(weights, numerics.scaled), weights)
    )
    errors = (numerics.sum_error(renormalize=renormalizes) for numerics in fitting)
    return NOISE + max(errors, default=0.0)


def _rows(is_bad: Tensor) -> list[int]:
    return is_bad.nonzero().flatten().tolist()


CHECK = Check(name="router_output", run=findings, by_reference=False)
