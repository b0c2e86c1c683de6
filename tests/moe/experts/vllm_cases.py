"""What the tests of vLLM's experts share: they run where vLLM and a GPU are."""

from __future__ import annotations

import pytest
import torch

from moe.experts import EXPERTS
from moe.numerics import Numerics
from moe.platforms.detect import devices, platform_of
from moe.quant import QUANT
from tests.moe.kernels.kernel_cases import input_of, layer_spec_of, routing_of, weights_of


def where_it_runs(name: str) -> pytest.MarkDecorator:
    """Skip where the row's needs of the platform and of packages do not hold."""
    met = EXPERTS.row(name).needs.are_met_by(platform_of(devices()))
    return pytest.mark.skipif(not met, reason=f"{name} needs a GPU and vLLM")


def problem(quant_name="none", unused=0.0, device="cuda", **sizes):
    """Return layer, quantization method, weights, tokens and routing, the same on each call."""
    torch.manual_seed(0)
    layer_spec, quant = layer_spec_of(quant_name, **sizes), QUANT.load(quant_name)()
    weights = weights_of(layer_spec, quant, device)
    x = input_of(layer_spec, quant, weights, device)
    return layer_spec, quant, weights, x, routing_of(layer_spec, device, unused)


def run(experts_class, layer_spec, quant, weights, x, routing):
    """Return the output of a backend on the CPU."""
    experts = experts_class(layer_spec, 0, Numerics(), quant)
    experts.prepare_weights(weights)
    with torch.inference_mode():
        return experts.apply(x, routing).cpu()
