"""Gather the pairs of a token and a slot by their expert, and the input of their first product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.reference import formats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from moe.numerics import Numerics
    from moe.reference.joined_pairs import JoinedPairs

BITS = 20  # of an adapter's number, and of an owner's: they and the expert are sorted as one key


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Hold the [R] pairs of a token and a slot that chose expert `e`, with the same adapter."""

    e: int
    rows: Tensor  # [R] int64, the tokens
    slots: Tensor  # [R] int64
    weight: Tensor  # [R] router weights, in the dtype that the numerics declare
    adapter: int = -1  # number of the tokens' low-rank adapter, -1 = none
    owner: int = -1  # EP rank of the replica that computes them, -1 = the only one, or the first


def pairs_of(
    topk_ids: Tensor,
    weights: Tensor,
    num_experts: int,
    adapters: Tensor | None = None,
    owners: Tensor | None = None,
) -> Iterator[Pairs]:
    """Yield the pairs of each expert that some token chose, by adapter and owner. Both [T, k].

    adapters: [T] int32 number of each token's adapter, -1 = none; None: no token has one.
    owners: [T, k] EP rank of the replica of each slot; None: no expert has replicas.
    """
    rows, slots = ((topk_ids >= 0) & (topk_ids < num_experts)).nonzero(as_tuple=True)
    keys = topk_ids[rows, slots].long() << 2 * BITS
    if adapters is not None:
        keys |= (adapters[rows].long() + 1) << BITS
    if owners is not None:
        keys |= owners[rows, slots].long() + 1
    groups, which, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    order = which.argsort(stable=True)  # within a group by tokens, then slots
    rows, slots = rows[order], slots[order]
    sizes = counts.tolist()
    split = [torch.split(t, sizes) for t in (rows, slots, weights[rows, slots])]
    for key, of_rows, of_slots, weight in zip(groups.tolist(), *split, strict=True):
        e, adapter, owner = key >> 2 * BITS, (key >> BITS) % 2**BITS - 1, key % 2**BITS - 1
        where = {"adapter": adapter, "owner": owner}
        yield Pairs(e=e, rows=of_rows, slots=of_slots, weight=weight, **where)


def weighted_input(x: Tensor, pairs: Pairs | JoinedPairs, numerics: Numerics, model: str) -> Tensor:
    """Return [R, K], the rows of x [T, K] times their router weights, as `numerics` round it.

    model: the layer's dtype.
    """
    place = model if numerics.weighted == "model" else "f32"
    return formats.on_grid(x[pairs.rows] * pairs.weight[:, None], place)


def largest_input(x: Tensor, pairs: Sequence[Pairs], numerics: Numerics, model: str) -> Tensor:
    """Return [1, 1], the largest absolute value of the first products' inputs.

    It determines the scale of a format in which all tokens share one.
    """
    inputs = [x]
    if numerics.weight_on == "input":
        inputs = [weighted_input(x, of_expert, numerics, model) for of_expert in pairs]
    largest = [rows.abs().amax() for rows in inputs if rows.numel()]
    return torch.stack([x.new_zeros(()), *largest]).amax().reshape(1, 1)
