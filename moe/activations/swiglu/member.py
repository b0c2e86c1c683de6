"""Clamped SwiGLU of the stack, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.activations.swiglu.spec import SWIGLU_CLAMPED

if TYPE_CHECKING:
    from torch import Tensor

    from moe.activations.base import ActivationSpec


class SwigluClamped:
    """Compute g * sigmoid(alpha * g) * (u + beta), float32 in and out.

    g is the gate, clamped from above, and u is up, clamped on both sides.
    """

    row: ActivationSpec = SWIGLU_CLAMPED

    def __call__(self, gate: Tensor, up: Tensor | None) -> Tensor:
        assert up is not None, "the row is gated"
        limit = self.row.limit
        assert limit is not None, "the row has a limit"
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return gate * torch.sigmoid(self.row.alpha * gate) * (up + self.row.beta)
