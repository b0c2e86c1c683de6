"""Compute GELU in the tanh approximation, and its derivative, for the reference.

It uses (1 + tanh(t)) / 2 = sigmoid(2t), which does not cancel for tanh(t) near -1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from moe.activations.base import Propagated

if TYPE_CHECKING:
    from torch import Tensor

_SCALE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715
_NOISE = 2.0**-21  # relative error of a few float32 operations and an exponential


def gelu_tanh(x: Tensor) -> Propagated:
    """Return GELU(x), its slope and its noise."""
    sigmoid = torch.sigmoid(_SCALE * (x + _CUBIC * x**3))
    inner_slope = _SCALE * (1 + 3 * _CUBIC * x.square())
    return Propagated(
        value=x * sigmoid,
        slope=(sigmoid + x * sigmoid * (1 - sigmoid) * inner_slope).abs(),
        # Customary code computes 1 + tanh(t), with the absolute error of 1 even for small sums.
        noise=x.abs() * _NOISE,
    )
