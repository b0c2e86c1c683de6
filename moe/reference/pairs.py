"""Gather the pairs of a token and a slot by their expert, and the input of their first product."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch

from moe.reference import formats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from moe.numerics import Numerics


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Hold the [R] pairs of a token and a slot that chose expert `e`, with the same adapter."""

    e: int
    rows: Tensor  # [R] int64, the tokens
    slots: Tensor  # [R] int64
    weight: Tensor  # [R] router weights, in the dtype that the numerics declare
    adapter: int = -1  # number of the tokens' low-rank adapter, -1 = none
    owner: int = -1  # EP rank of the replica that computes them, -1 = the only one, or the first

    @property
    def divisor(self) -> Tensor:
        """Return [R, 1], the weights with 1 in place of zeros."""
        return torch.where(self.weight == 0, torch.ones_like(self.weight), self.weight)[:, None]


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
    numbers = [-1] if adapters is None else torch.unique(adapters).tolist()
    ranks = [-1] if owners is None else torch.unique(owners).tolist()
    for e in range(num_experts):
        for number, owner in product(numbers, ranks):
            is_pair = topk_ids == e
            if adapters is not None:
                is_pair = is_pair & (adapters == number)[:, None]
            if owners is not None:
                is_pair = is_pair & (owners == owner)
            rows, slots = is_pair.nonzero(as_tuple=True)
            if len(rows):
                weight = weights[rows, slots]
                where = {"adapter": number, "owner": owner}
                yield Pairs(e=e, rows=rows, slots=slots, weight=weight, **where)


def weighted_input(x: Tensor, pairs: Pairs, numerics: Numerics, model: str) -> Tensor:
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
