"""SiLU(gate) * up of the stack, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class SiluMul:
    """Compute SiLU(gate) * up, or SiLU(gate) without up; float32 in and out."""

    def __call__(self, gate: Tensor, up: Tensor | None) -> Tensor:
        silu = torch.nn.functional.silu(gate)
        return silu if up is None else silu * up
