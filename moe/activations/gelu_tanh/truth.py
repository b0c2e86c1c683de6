"""GELU(gate) * up in GELU's tanh form and its derivatives, for the reference.

(1 + tanh(t)) / 2 = sigmoid(2t), which loses no digits to cancellation where tanh is near -1.
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
_NOISE = 2.0**-21  # relative, of a few float32 operations and an exponential


def gelu_tanh_mul(gate: Tensor, up: Tensor) -> Propagated:
    """gate, up: of one shape."""
    sigmoid = torch.sigmoid(_SCALE * (gate + _CUBIC * gate**3))
    slope = _SCALE * (1 + 3 * _CUBIC * gate.square())
    gelu = gate * sigmoid
    return Propagated(
        value=gelu * up,
        by_gate=((sigmoid + gate * sigmoid * (1 - sigmoid) * slope) * up).abs(),
        by_up=gelu.abs(),
        # Customary code adds tanh(t) to 1, and is off by a step of 1 however small the sum is.
        noise=(gate * up).abs() * _NOISE,
    )
