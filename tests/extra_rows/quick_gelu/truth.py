"""gate * sigmoid(1.702 * gate) and its slope, for the reference."""

import torch

from moe.activations.base import Propagated

ALPHA = 1.702
NOISE = 2.0**-22  # relative, of float32's few operations; the sigmoid's grows with its argument


def quick_gelu(x):
    sigmoid = torch.sigmoid(ALPHA * x)
    value = x * sigmoid
    return Propagated(
        value=value,
        slope=(sigmoid + ALPHA * value * (1 - sigmoid)).abs(),
        noise=value.abs() * (1 + (ALPHA * x).abs()) * NOISE,
    )
