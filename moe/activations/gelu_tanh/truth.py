"""Compute GELU(gate) * up, in the tanh approximation, and its derivatives, for the reference.

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


def gelu_tanh_mul(gate: Tensor, up: Tensor) -> Propagated:
    """Return GELU(gate) * up, its derivatives and its noise. gate, up: of one shape."""
    sigmoid = torch.sigmoid(_SCALE * (gate + _CUBIC * gate**3))
    slope = _SCALE * (1 + 3 * _CUBIC * gate.square())
    gelu = gate * sigmoid
    return Propagated(
        value=gelu * up,
        by_gate=((sigmoid + gate * sigmoid * (1 - sigmoid) * slope) * up).abs(),
        by_up=gelu.abs(),
        # Customary code computes 1 + tanh(t), with the absolute error of 1 even for small sums.
        noise=(gate * up).abs() * _NOISE,
    )
