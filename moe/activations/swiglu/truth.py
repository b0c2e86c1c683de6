"""Compute x * sigmoid(alpha * x) and its derivative, for the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.activations.base import SMALLEST_NORMAL, Propagated
from moe.activations.swiglu.spec import SWIGLU_CLAMPED

if TYPE_CHECKING:
    from torch import Tensor

_NOISE = 2.0**-22  # relative, of a few float32 operations; the sigmoid's grows with its argument


def swish(x: Tensor) -> Propagated:
    """Return f(x) with the row's alpha, its slope and its noise."""
    scaled = SWIGLU_CLAMPED.alpha * x
    sigmoid = 1 / (1 + torch.exp(-scaled))
    value = x * sigmoid
    return Propagated(
        value=value,
        slope=(sigmoid + scaled * sigmoid * (1 - sigmoid)).abs(),
        noise=value.abs() * (2 + scaled.abs()) * _NOISE + x.abs() * SMALLEST_NORMAL,
    )
