"""The router's truth, and whether somebody else's choice of experts is a right one.

Ties are nobody's mistake: ids are valid when each chosen logit is at least each unchosen one,
less the noise of the logits' own arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.routers import ROUTERS
from moe.spec import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from moe.routers.base import RouterTruth

# a score and its renormalisation in float32: a few roundings of 2**-24 each, and exp's own error
WEIGHT_NOISE = 2.0**-20


def truth_of(router: str) -> RouterTruth:
    """The twin of a row of `moe.routers`."""
    truth: RouterTruth = resolve(ROUTERS.row(router).truth)()
    return truth


def weights(
    logits: Tensor, topk_ids: Tensor, *, renormalize: bool, router: str = "softmax"
) -> Tensor:
    """logits: [T, E]; topk_ids: [T, k], none -1 -> [T, k] float32 weights of these experts."""
    return truth_of(router).weights(logits, topk_ids, renormalize=renormalize)


def choose(logits: Tensor, top_k: int, router: str = "softmax") -> Tensor:
    """[T, E] -> [T, k] ids of the router's choice, the lower id first among equals."""
    return truth_of(router).choose(logits, top_k)


def routing_errors(
    logits: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    *,
    renormalize: bool,
    router: str = "softmax",
) -> list[str]:
    """What is wrong with a router's output; empty when nothing is.

    logits: [T, E] as the router got them. topk_ids: [T, k] int32. topk_weights: [T, k] float32.
    """
    tokens, experts = logits.shape
    if tokens == 0:
        return []
    ids = topk_ids.long()
    outside = (ids < 0) | (ids >= experts)
    if outside.any():
        row = int(outside.any(dim=1).nonzero()[0])
        return [
            f"routing: token {row} is sent to {ids[row].tolist()}, experts are 0..{experts - 1}"
        ]
    is_chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, True)
    truth = truth_of(router)
    errors = _twice(ids, is_chosen) + _not_best(truth, logits.double(), is_chosen)
    if not errors:
        expected = truth.weights(logits, ids, renormalize=renormalize)
        errors = _wrong_weights(expected, topk_weights)
    return errors


def _twice(ids: Tensor, is_chosen: Tensor) -> list[str]:
    bad = (is_chosen.sum(dim=1) < ids.shape[1]).nonzero()
    if len(bad) == 0:
        return []
    row = int(bad[0])
    return [
        f"routing: {len(bad)} tokens choose an expert twice, first token {row}: {ids[row].tolist()}"
    ]


def _not_best(truth: RouterTruth, logits: Tensor, is_chosen: Tensor) -> list[str]:
    lowest = logits.masked_fill(~is_chosen, torch.inf).amin(dim=1)
    highest = logits.masked_fill(is_chosen, -torch.inf).amax(dim=1)
    bad = (~truth.is_valid(logits, is_chosen, WEIGHT_NOISE)).nonzero()
    if len(bad) == 0:
        return []
    row = int(bad[0])
    tokens = f"{len(bad)} of {len(logits)} tokens leave out a better expert"
    values = f"chose logit {lowest[row]:.6g} over {highest[row]:.6g}"
    return [f"routing: {tokens}, first token {row}: {values}"]


def _wrong_weights(expected: Tensor, weights: Tensor) -> list[str]:
    off = (weights.float() - expected).abs() > WEIGHT_NOISE * expected.amax(dim=1, keepdim=True)
    off |= ~weights.isfinite()
    if not off.any():
        return []
    row, slot = (int(i) for i in off.nonzero()[0])
    tokens = f"{int(off.any(dim=1).sum())} of {len(expected)} tokens have wrong weights"
    values = f"{float(weights[row, slot]):.6g}, expected {float(expected[row, slot]):.6g}"
    return [f"routing: {tokens}, first token {row} slot {slot}: {values}"]
