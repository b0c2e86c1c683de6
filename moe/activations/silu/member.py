"""SiLU(gate) * up of the stack, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class SiluMul:
    """Compute SiLU(gate) * up, float32 in and out."""

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        return torch.nn.functional.silu(gate) * up
