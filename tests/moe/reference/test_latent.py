"""The reference's projections: values, errors of values near a tie, and the way back folded in."""

import dataclasses

import torch

from moe.formats import FORMATS
from moe.layout import Layout
from moe.numerics import Numerics
from moe.reference.latent import LatentTruth, carried, quantized_error
from moe.reference.layer import BaselineSiluAndMul
from moe.reference.row_matrices import RowMatrices
from moe.spec import LayerSpec

HIDDEN, LATENT, N = 96, 64, 32


def truth(seed=0):
    torch.manual_seed(seed)
    down = torch.randn(LATENT, HIDDEN) / HIDDEN**0.5
    return LatentTruth(
        down=down.bfloat16(), up=(torch.randn(HIDDEN, LATENT) / LATENT**0.5).bfloat16()
    )


def test_a_sum_in_another_order_stays_within_the_doubt():
    one = truth()
    x = torch.randn(2000, HIDDEN).bfloat16()
    z = one.enter(x.float(), "bf16")
    order = torch.randperm(HIDDEN)
    other = torch.zeros(len(x), LATENT)
    for column in order.tolist():
        other += x[:, column, None].float() * one.down[:, column].float()
    apart = (other.bfloat16().float() - z.value).abs()
    assert int((apart > 0).sum()) > 0  # some lie at a tie, or the test shows nothing
    assert bool((apart <= z.doubt * 1.001).all())
    assert float((z.doubt > 0).float().mean()) < 0.05


def test_the_error_goes_through_quantization_and_the_first_product():
    z = truth().enter(torch.randn(200, HIDDEN).bfloat16().float(), "bf16")
    fmt = FORMATS["fp8_token"]
    codes = quantized_error(z, None, fmt, Numerics.stated())
    assert codes.value.shape == z.value.shape
    assert bool((codes.doubt[z.doubt > 0] >= 0).all())
    assert float(codes.doubt.max()) > float(z.doubt.max())  # a step of e4m3 is larger than of bf16
    w13 = torch.randn(2 * N, LATENT)
    product = carried(
        z.__class__(value=z.value @ w13.T, **_zeros(200, 2 * N)), z, RowMatrices.one(w13)
    )
    assert torch.allclose(product.doubt, z.doubt @ w13.abs().T)
    assert torch.allclose(product.jumps, z.jumps @ w13.square().T)


def _zeros(rows, columns):
    return {name: torch.zeros(rows, columns) for name in ("variance", "jumps", "doubt")}


def test_the_answer_is_that_of_the_experts_between_the_projections():
    one = truth()
    torch.manual_seed(5)
    experts = [(torch.randn(2 * N, LATENT), torch.randn(LATENT, N)) for _ in range(4)]
    spec = LayerSpec(
        m=6, hidden=HIDDEN, intermediate=N, num_experts=4, top_k=2, latent=LATENT, dtype="f32"
    )
    inner = spec.for_experts()
    x, ids = torch.randn(6, HIDDEN), torch.tensor([[0, 1], [2, 3]] * 3, dtype=torch.int32)
    weights = torch.rand(6, 2)
    numerics = Numerics.stated()
    outer = BaselineSiluAndMul(spec, numerics, experts.__getitem__, latent=one)
    answer = outer(x, ids, weights, keep=torch.arange(6))
    z = outer.entered(x)
    assert torch.equal(z, one.enter(x, "f32").value)
    wanted = one.leave(
        BaselineSiluAndMul(inner, numerics, experts.__getitem__)(z, ids, weights).out
    )
    assert torch.allclose(answer.out, wanted, rtol=1e-4, atol=1e-4)
    assert answer.parts.shape == (1, 6, 2, HIDDEN)
    total = torch.einsum("wrkh,rk->rh", answer.parts, weights)
    assert torch.allclose(total, wanted, rtol=1e-4, atol=1e-4)
    assert float(answer.amax1) == float(z.abs().max())


def test_what_each_tp_rank_projects_back_is_rounded():
    spec = LayerSpec(m=2, hidden=HIDDEN, intermediate=N, num_experts=4, top_k=2, latent=LATENT)
    partial = torch.ones(4, 2, HIDDEN)

    def variance(**layout):
        laid_out = dataclasses.replace(spec, layout=Layout(**layout))
        return float(truth().rounding(partial, laid_out)[0])

    assert variance(dp_size=2, tp_size=2, use_ep=True) > 0
    whole = variance(dp_size=4, use_ep=True)  # one sum of 4, whose step is four times that of 1
    alone = variance(tp_size=4)  # four sums of 1
    assert whole > 3 * alone


def test_a_rank_without_tokens_has_no_rounding():
    """As with `m:1` and `sp`, where the second of two ranks has none."""
    layer = LayerSpec(
        m=1,
        hidden=16,
        intermediate=8,
        num_experts=1,
        top_k=1,
        layout=Layout(dp_size=1, tp_size=2, use_ep=True, sequence_parallel=True),
        latent=4,
    )
    assert truth().rounding(torch.zeros(2, 0, 4), layer).shape == (0,)
