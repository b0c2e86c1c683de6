"""Apply an activation with its row's limit and beta, and propagate noise through it.

`f(min(gate, limit)) * (clamp(up, -limit, limit) + beta)`. At the limit the slope jumps: noise that
reaches it may pass through although the value is beyond, so the slope there is the steeper one's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.activations import ACTIVATIONS
from moe.activations.base import Propagated
from moe.spec import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from moe.activations.base import ActivationTruth


@dataclass(frozen=True, kw_only=True)
class TrueActivation:
    """Hold one activation: f and the row's parameters."""

    function: ActivationTruth
    gated: bool
    limit: float | None
    beta: float

    def __call__(self, gate: Tensor, up: Tensor | None) -> Tensor:
        """Return the activation's value. gate, up: of one shape; up: None if it is not gated."""
        f = self.of_gate(gate).value
        return f if up is None else f * self.of_up(up).value

    def split(self, product: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return gate and up [R, n] of the first product [R, 2n]; up is None if not gated."""
        if not self.gated:
            return product, None
        gate, up = product.chunk(2, dim=1)
        return gate, up

    def of_gate(self, gate: Tensor, reach: Tensor | None = None) -> Propagated:
        """Return f of the clamped gate. reach: the largest error of the gate, or None for none."""
        if self.limit is None:
            return self.function(gate)
        f = self.function(gate.clamp(max=self.limit))
        beyond = gate if reach is None else gate - reach
        slope = torch.where(beyond > self.limit, torch.zeros_like(f.slope), f.slope)
        return Propagated(value=f.value, slope=slope, noise=f.noise)

    def of_up(self, up: Tensor, reach: Tensor | None = None) -> Propagated:
        """Return the clamped up plus beta. reach: as in `of_gate`."""
        zeros, ones = torch.zeros_like(up), torch.ones_like(up)
        if self.limit is None:
            return Propagated(value=up + self.beta, slope=ones, noise=zeros)
        size = up.abs() if reach is None else up.abs() - reach
        slope = torch.where(size > self.limit, zeros, ones)
        return Propagated(
            value=up.clamp(-self.limit, self.limit) + self.beta, slope=slope, noise=zeros
        )


def activation_of(name: str) -> TrueActivation:
    """Return the reference's activation, by its name in `moe.activations`."""
    row = ACTIVATIONS.row(name)
    function: ActivationTruth = resolve(row.truth)
    return TrueActivation(function=function, gated=row.gated, limit=row.limit, beta=row.beta)
