"""gate * sigmoid(1.702 * gate) * up and its derivatives, for the reference."""

import torch

from moe.activations.base import Propagated

ALPHA = 1.702
NOISE = 2.0**-22  # relative, of float32's few operations; the sigmoid's grows with its argument


def quick_gelu_mul(gate, up):
    sigmoid = torch.sigmoid(ALPHA * gate)
    gelu = gate * sigmoid
    return Propagated(
        value=gelu * up,
        by_gate=((sigmoid + ALPHA * gelu * (1 - sigmoid)) * up).abs(),
        by_up=gelu.abs(),
        noise=(gelu * up).abs() * (1 + (ALPHA * gate).abs()) * NOISE,
    )
