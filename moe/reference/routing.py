"""The router's truth, and whether somebody else's choice of experts is a right one.

Ties are nobody's mistake: ids are valid when each chosen logit is at least each unchosen one,
less the noise of the logits' own arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# softmax and its renormalisation in float32: a few roundings of 2**-24 each, and exp's own error
WEIGHT_NOISE = 2.0**-20


def softmax_weights(logits: Tensor, topk_ids: Tensor, *, renormalize: bool) -> Tensor:
    """logits: [T, E]; topk_ids: [T, k], none -1 -> [T, k] float32 weights of these experts."""
    weights = torch.softmax(logits.double(), dim=-1).gather(1, topk_ids.long())
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.float()


def choose(logits: Tensor, top_k: int) -> Tensor:
    """[T, E] -> [T, k] ids by falling logit, the lower id first among equals."""
    order = torch.argsort(logits.double(), dim=-1, descending=True, stable=True)
    return order[:, :top_k].to(torch.int32)


def complaints(
    logits: Tensor, topk_ids: Tensor, topk_weights: Tensor, *, renormalize: bool
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
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, True)
    found = _twice(ids, chosen) + _not_best(logits.double(), chosen)
    if not found:
        found = _wrong_weights(logits, ids, topk_weights, renormalize=renormalize)
    return found


def _twice(ids: Tensor, chosen: Tensor) -> list[str]:
    bad = (chosen.sum(dim=1) < ids.shape[1]).nonzero()
    if len(bad) == 0:
        return []
    row = int(bad[0])
    return [
        f"routing: {len(bad)} tokens choose an expert twice, first token {row}: {ids[row].tolist()}"
    ]


def _not_best(logits: Tensor, chosen: Tensor) -> list[str]:
    lowest = logits.masked_fill(~chosen, torch.inf).amin(dim=1)
    highest = logits.masked_fill(chosen, -torch.inf).amax(dim=1)
    bad = (lowest < highest - WEIGHT_NOISE * highest.abs()).nonzero()
    if len(bad) == 0:
        return []
    row = int(bad[0])
    tokens = f"{len(bad)} of {len(logits)} tokens leave out a better expert"
    values = f"chose logit {lowest[row]:.6g} over {highest[row]:.6g}"
    return [f"routing: {tokens}, first token {row}: {values}"]


def _wrong_weights(logits: Tensor, ids: Tensor, weights: Tensor, *, renormalize: bool) -> list[str]:
    expected = softmax_weights(logits, ids, renormalize=renormalize)
    off = (weights.float() - expected).abs() > WEIGHT_NOISE * expected.amax(dim=1, keepdim=True)
    off |= ~weights.isfinite()
    if not off.any():
        return []
    row, slot = (int(i) for i in off.nonzero()[0])
    tokens = f"{int(off.any(dim=1).sum())} of {len(logits)} tokens have wrong weights"
    values = f"{float(weights[row, slot]):.6g}, expected {float(expected[row, slot]):.6g}"
    return [f"routing: {tokens}, first token {row} slot {slot}: {values}"]
