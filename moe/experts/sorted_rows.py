"""Define the base class of backends whose products take rows sorted by expert.

Rows without an expert on this rank are sorted last, behind the last group. What products leave
there is not read again.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from moe import guarded_buffers, intermediates
from moe.expert_order import by_expert, weighted_sum
from moe.experts.base import Experts

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, Routing


class SortedExperts(Experts):
    """Sort rows by expert for two grouped products, which a subclass makes, and sum by token."""

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        if (zeros := self.zeros_if_idle(x)) is not None:
            return zeros
        tokens, top_k = routing.topk_ids.shape
        order, ends = by_expert(routing.topk_ids, self.num_local)
        groups = self.groups(ends, len(order))
        gate_up = self.first_product(x, order // top_k, groups)
        h = self.activate(gate_up).to(self.dtype)
        y = guarded_buffers.empty(
            (tokens * top_k, self.layer_spec.hidden), dtype=self.dtype, device=h.device
        )
        y[order] = self.second_product(h, order, groups)
        intermediates.keep("gemm1", gate_up, rows=order, copy=False)
        intermediates.keep("activation", h, rows=order, copy=False)
        intermediates.keep("gemm2", y, copy=False)
        return weighted_sum(y.view(tokens, top_k, -1), routing)

    def groups(self, ends: Tensor, rows: int) -> Any:
        """Return what tells the products whose rows are whose: ends [e] int32, or made of them.

        rows: all of them, R; those at or beyond the last end belong to no local expert.
        """
        del rows
        return ends

    @abstractmethod
    def first_product(self, x: Activations, token: Tensor, groups: Any) -> Tensor:
        """Return [R, 2n] for rows of x: [T, K] in expert order. token: [R]."""

    @abstractmethod
    def second_product(self, h: Tensor, order: Tensor, groups: Any) -> Tensor:
        """Return [R, K] for h: [R, n] in expert order. order: [R], the flat row of each."""


def taken(x: Activations, rows: Tensor) -> Activations:
    """Return these rows of codes that have scales; as bytes, since not every device indexes fp8."""
    assert x.scale is not None, "codes have scales"
    codes = x.codes.view(torch.uint8)[rows].view(x.codes.dtype)
    return x.replace(codes=codes, scale=x.scale[rows])
