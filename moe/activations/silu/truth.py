"""Compute SiLU(gate) * up and its derivatives, for the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.activations.base import Propagated

if TYPE_CHECKING:
    from torch import Tensor

_NOISE = 2.0**-21  # relative error of a few float32 operations and an exponential


def silu_mul(gate: Tensor, up: Tensor) -> Propagated:
    """Return SiLU(gate) * up, its derivatives and its noise. gate, up: of one shape."""
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    value = silu * up
    return Propagated(
        value=value,
        by_gate=(sigmoid * (1 + gate * (1 - sigmoid)) * up).abs(),
        by_up=silu.abs(),
        noise=value.abs() * _NOISE,
    )
