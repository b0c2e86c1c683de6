"""Problems, weights and a plain truth for the tests of the kernels and of their experts."""

from __future__ import annotations

import torch

from moe.quant import QUANT
from moe.quant.base import dequantize_activations, dequantize_weight
from moe.spec import LayerSpec
from moe.types import TORCH_DTYPE, Activations, ExpertWeights, Routing

QUANTS = ("none", "fp8_tensor", "fp8_tensor_dynamic", "fp8_block", "int8_channel")


def layer_spec_of(quant: str, **sizes) -> LayerSpec:
    given = {"m": 32, "hidden": 128, "intermediate": 128, "num_experts": 8, "top_k": 2} | sizes
    return LayerSpec(scheme=QUANT.row(quant).scheme, **given)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal element by element, NaN equal to NaN, and of one type and shape."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.itemsize == 1:
        return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def relative_rms(actual: torch.Tensor, expected: torch.Tensor) -> float:
    difference = (actual.double() - expected.double()).square().mean().sqrt()
    return float(difference / expected.double().square().mean().sqrt())


def routing_of(layer_spec: LayerSpec, device, unused: float = 0.0) -> Routing:
    """Distinct experts a token; about `unused` of the slots are -1."""
    scores = torch.rand(layer_spec.m, layer_spec.num_experts)
    ids = scores.topk(layer_spec.top_k, dim=1).indices.int()
    ids[torch.rand(ids.shape) < unused] = -1
    weights = torch.rand(ids.shape) + 0.5
    return Routing(topk_ids=ids.to(device), topk_weights=weights.to(device))


def weights_of(layer_spec: LayerSpec, quant, device) -> ExpertWeights:
    """Random weights, quantized, with static scales that the activations of `input_of` fit."""
    e, k, n = layer_spec.num_experts, layer_spec.hidden, layer_spec.intermediate
    dtype = TORCH_DTYPE[layer_spec.dtype]
    w13 = (torch.randn(e, 2 * n, k) * k**-0.5).to(dtype)
    w2 = (torch.randn(e, k, n) * n**-0.5).to(dtype)
    scales = {"a1_scale": torch.tensor(4 / 448), "a2_scale": torch.tensor(8 / 448)}
    made = quant.quantize_weights(w13, w2).replace(**scales)
    return made.replace(
        **{n: t.to(device) for n, t in vars(made).items() if isinstance(t, torch.Tensor)}
    )


def input_of(layer_spec: LayerSpec, quant, weights: ExpertWeights, device) -> Activations:
    x = torch.randn(layer_spec.m, layer_spec.hidden).to(TORCH_DTYPE[layer_spec.dtype])
    return quant.quantize_input(x.to(device), weights.a1_scale)


def expected_output(
    layer_spec: LayerSpec, quant, weights: ExpertWeights, x: Activations, routing: Routing
) -> torch.Tensor:
    """The layer as `Numerics(gemm1="model", activation="model", expert="model")` declares it."""
    dtype = TORCH_DTYPE[layer_spec.dtype]
    w13 = dequantize_weight(weights.gate_up).cpu().double()
    w2 = dequantize_weight(weights.down).cpu().double()
    values = dequantize_activations(x).cpu().double()
    ids, router = routing.topk_ids.cpu(), routing.topk_weights.cpu().double()
    token, slot = (ids >= 0).nonzero(as_tuple=True)
    expert = ids[token, slot].long()
    gate_up = torch.einsum("ri,roi->ro", values[token], w13[expert]).to(dtype).double()
    gate, up = gate_up.chunk(2, dim=1)
    h = (gate * gate.sigmoid() * up).to(dtype)
    a2 = None if weights.a2_scale is None else weights.a2_scale.cpu()
    h = dequantize_activations(quant.quantize_intermediate(h, a2)).double()
    y = torch.einsum("ri,roi->ro", h, w2[expert]).to(dtype).double()
    out = torch.zeros(layer_spec.m, layer_spec.hidden, dtype=torch.float64, device="cpu")
    out.index_add_(0, token, y * router[token, slot, None])
    return out.to(dtype)
