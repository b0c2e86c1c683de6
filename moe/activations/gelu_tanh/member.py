"""GELU(gate) * up in GELU's tanh form, as the stack computes it in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class GeluTanhMul:
    """float32 in and out."""

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        return torch.nn.functional.gelu(gate, approximate="tanh") * up
