"""Compute SiLU and its derivative, for the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.activations.base import SMALLEST_NORMAL, Propagated

if TYPE_CHECKING:
    from torch import Tensor

_NOISE = 2.0**-21  # relative error of a few float32 operations and an exponential


def silu(x: Tensor) -> Propagated:
    """Return SiLU(x), its slope and its noise."""
    sigmoid = torch.sigmoid(x)
    value = x * sigmoid
    slope = (sigmoid * (1 + x * (1 - sigmoid))).abs()
    return Propagated(
        value=value, slope=slope, noise=value.abs() * _NOISE + x.abs() * SMALLEST_NORMAL
    )
