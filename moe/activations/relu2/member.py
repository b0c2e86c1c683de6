"""ReLU(gate) squared, times up, of the stack, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Relu2Mul:
    """Compute ReLU(gate) ** 2 * up, or ReLU(gate) ** 2 without up; float32 in and out."""

    def __call__(self, gate: Tensor, up: Tensor | None) -> Tensor:
        squared = torch.nn.functional.relu(gate).square()
        return squared if up is None else squared * up
