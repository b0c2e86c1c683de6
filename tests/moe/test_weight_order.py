"""Interleaved rows of gate and up, converted and converted back."""

import re

import pytest
import torch

from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.quant import QUANT
from moe.spec import LayerSpec
from moe.types import Activations, ExpertWeights, Routing
from moe.weight_order import from_interleaved, to_interleaved

E, N, K = 3, 24, 32
BY_ROW = ("w13", "b13", "w13_scale")


def weights_of(quant):
    torch.manual_seed(0)
    w13, w2 = torch.randn(E, 2 * N, K).bfloat16(), torch.randn(E, K, N).bfloat16()
    made = QUANT.load(quant)().quantize_weights(w13, w2)
    return made.replace(b13=torch.randn(E, 2 * N).bfloat16(), b2=torch.randn(E, K).bfloat16())


def raw(t):
    return t.view(torch.uint8) if t.element_size() == 1 else t


@pytest.mark.parametrize("quant", ["none", "int8_channel", "fp8_channel", "fp8_tensor"])
def test_both_ways_give_the_same_bits(quant):
    given = weights_of(quant)
    there = to_interleaved(given)
    back = from_interleaved(there)
    for name in (*BY_ROW, "w2", "b2", "w2_scale"):
        before, after = getattr(given, name), getattr(back, name)
        assert (before is None and after is None) or torch.equal(raw(before), raw(after))
    assert torch.equal(raw(there.w13)[:, ::2], raw(given.w13)[:, :N]), "even rows are gate's"
    assert torch.equal(raw(there.w13)[:, 1::2], raw(given.w13)[:, N:])
    assert torch.equal(there.b13[:, 1::2], given.b13[:, N:])
    if given.w13_scale is not None and given.w13_scale.ndim > 1:
        assert torch.equal(there.w13_scale[:, ::2], given.w13_scale[:, :N])


@pytest.mark.parametrize("quant", ["none", "int8_channel"])
def test_a_converted_checkpoint_is_the_layer_that_it_stores(quant):
    """As gpt-oss stores it: interleaved rows, biases and a clamped activation."""
    stored = to_interleaved(weights_of(quant))
    spec = LayerSpec(
        m=5,
        hidden=K,
        intermediate=N,
        num_experts=E,
        top_k=1,
        scheme=QUANT.row(quant).scheme,
        activation="swiglu_clamped",
        expert_bias=True,
    )
    method = QUANT.load(quant)()
    experts = EXPERTS.load("torch_loop")(spec, 0, EXPERTS.row("torch_loop").numerics, method)
    experts.prepare_weights(from_interleaved(stored))
    x = method.quantize_input((torch.randn(5, K) * 2).bfloat16(), None)
    ids = torch.tensor([[0], [1], [2], [1], [0]], dtype=torch.int32)
    got = experts.apply(x, Routing(topk_ids=ids, topk_weights=torch.ones(5, 1)))
    wanted = torch.stack([interleaved_mlp(stored, x, t, int(e), method) for t, e in enumerate(ids)])
    assert torch.allclose(got.float(), wanted, rtol=1e-2, atol=1e-2)


def interleaved_mlp(stored: ExpertWeights, x: Activations, token, e, method):
    """One expert on one token, gate and up taken from every second row."""
    value = x.codes.float() if x.scale is None else x.codes.float() * x.scale
    w13, w2 = stored.gate_up.expert(e), stored.down.expert(e)
    first, second = (
        w.codes.float() if w.scale is None else w.codes.float() * w.scale[:, None]
        for w in (w13, w2)
    )
    product = first @ value[token] + stored.b13[e].float()
    gate, up = product[::2].clamp(max=7), product[1::2].clamp(-7, 7)
    h = gate * (1.702 * gate).sigmoid() * (up + 1)
    again = method.quantize_intermediate(h[None], None)
    h = again.codes.float() if again.scale is None else again.codes.float() * again.scale
    return second @ h[0] + stored.b2[e].float()


def test_what_cannot_be_interleaved_is_named():
    odd = ExpertWeights(w13=torch.zeros(1, 3, 4), w2=torch.zeros(1, 4, 3))
    with pytest.raises(MoEError, match="w13 has 3 rows, which is odd"):
        to_interleaved(odd)
    blocked = QUANT.load("fp8_block")().quantize_weights(
        torch.zeros(1, 256, 128), torch.zeros(1, 128, 128)
    )
    text = "format 'fp8_block' has one scale for 128 rows, which would mix gate and up"
    for convert in (to_interleaved, from_interleaved):
        with pytest.raises(MoEError, match=re.escape(text)):
            convert(blocked)
