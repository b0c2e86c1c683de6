"""Compute GELU by the complementary error function, and its derivative, for the reference.

erfc(-x / sqrt 2) / 2 is the share of a normal variable below x; it does not cancel for x below 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from moe.activations.base import Propagated

if TYPE_CHECKING:
    from torch import Tensor

_ROOT = math.sqrt(2.0)
_DENSITY = 1 / math.sqrt(2 * math.pi)
_NOISE = 2.0**-21  # relative error of a few float32 operations and an error function


def gelu(x: Tensor) -> Propagated:
    """Return GELU(x), its slope and its noise."""
    share = torch.erfc(-x / _ROOT) / 2
    density = _DENSITY * torch.exp(-x.square() / 2)
    return Propagated(
        value=x * share,
        slope=(share + x * density).abs(),
        # Customary code computes 1 + erf(t), with the absolute error of 1 even for small sums.
        noise=x.abs() * _NOISE,
    )
