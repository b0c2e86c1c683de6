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


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Hold the [R] pairs of a token and a slot that chose expert `e`."""

    e: int
    rows: Tensor  # [R] int64, the tokens
    slots: Tensor  # [R] int64
    weight: Tensor  # [R] router weights, in the dtype that the numerics declare

    @property
    def divisor(self) -> Tensor:
        """Return [R, 1], the weights with 1 in place of zeros."""
        return torch.where(self.weight == 0, torch.ones_like(self.weight), self.weight)[:, None]


def pairs_of(topk_ids: Tensor, weights: Tensor, num_experts: int) -> Iterator[Pairs]:
    """Yield the pairs of each expert that some token chose. Both [T, k]."""
    for e in range(num_experts):
        rows, slots = (topk_ids == e).nonzero(as_tuple=True)
        if len(rows):
            yield Pairs(e=e, rows=rows, slots=slots, weight=weights[rows, slots])


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
