"""GELU(gate) * up of the stack, in torch, with the tanh approximation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class GeluTanhMul:
    """Compute GELU(gate) * up, or GELU(gate) without up; float32 in and out."""

    def __call__(self, gate: Tensor, up: Tensor | None) -> Tensor:
        gelu = torch.nn.functional.gelu(gate, approximate="tanh")
        return gelu if up is None else gelu * up
