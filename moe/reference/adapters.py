"""Compute low-rank adapters as what they are: changes of their expert's matrices.

A member shrinks and expands; the reference adds scale * B @ A to the values of the expert's own
matrices, in full, and multiplies once. So it shares neither an order nor a place of rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AdapterTruth:
    """Know a layer's adapters.

    of(a, e) returns adapter a's matrices for expert e, as a checkpoint has them: A [h, r, K] and B
    [h, N, r] of the first product, A [r, N] and B [K, r] of the second. scale: [L] float32, alpha /
    r of each adapter.
    """

    of: Callable[[int, int], tuple[Tensor, Tensor, Tensor, Tensor]]
    scale: Tensor

    def changes(self, adapter: int, e: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return what an adapter adds to w13 [h * N, K] and to w2 [K, N] of an expert."""
        a13, b13, a2, b2 = (t.to(dtype) for t in self.of(adapter, e))
        scale = self.scale[adapter].to(dtype)
        return torch.cat(list(scale * (b13 @ a13))), scale * (b2 @ a2)
