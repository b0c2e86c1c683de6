"""The reference against the plainest formula, and its bounds against simulated members."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import pytest
import torch

from moe.activations.silu.truth import silu_mul
from moe.formats import FORMATS
from moe.layout import Layout
from moe.reference import formats
from moe.reference.error_propagation import first_product, intermediate
from moe.reference.layer import BaselineSiluAndMul
from moe.spec import LayerSpec, Numerics, Scheme

if TYPE_CHECKING:
    from moe.reference.result import Answer

EXPERTS, HIDDEN, INTER, TOKENS = 4, 96, 256, 24
torch.manual_seed(3)
W13 = (torch.randn(EXPERTS, 2 * INTER, HIDDEN) * 1.5 / HIDDEN**0.5).bfloat16()
W2 = (torch.randn(EXPERTS, HIDDEN, INTER) / INTER**0.5).bfloat16()
X = torch.randn(TOKENS, HIDDEN).bfloat16()
IDS = torch.stack([torch.randperm(EXPERTS)[:2] for _ in range(TOKENS)]).int()
WEIGHTS = torch.rand(TOKENS, 2) + 0.2


def layer_spec(scheme: tuple[str, str] = ("model", "model"), **layout: object) -> LayerSpec:
    return LayerSpec(
        m=TOKENS,
        hidden=HIDDEN,
        intermediate=INTER,
        num_experts=EXPERTS,
        top_k=2,
        scheme=Scheme(weights=scheme[0], activations=scheme[1]),
        layout=Layout(**layout),  # type: ignore[arg-type]
    )


def reference(
    p: LayerSpec, numerics: Numerics | None = None, **options: object
) -> BaselineSiluAndMul:
    declared = numerics or Numerics.stated()
    return BaselineSiluAndMul(p, declared, lambda e: (W13[e], W2[e]), **options)  # type: ignore[arg-type]


def h_of(x: torch.Tensor, w13: torch.Tensor, numerics: Numerics) -> torch.Tensor:
    """The reference's intermediate of rows, without quantization."""
    return intermediate(first_product(x, w13, numerics), numerics, "bf16", silu_mul).value


def plain(ids: torch.Tensor = IDS) -> torch.Tensor:
    """The formula, token by token in float64."""
    out = torch.zeros(TOKENS, HIDDEN, dtype=torch.float64)
    for t in range(TOKENS):
        for slot in range(ids.shape[1]):
            if ids[t, slot] >= 0:
                gate, up = (W13[ids[t, slot]].double() @ X[t].double()).chunk(2)
                h = gate / (1 + torch.exp(-gate)) * up
                out[t] += WEIGHTS[t, slot].double() * (W2[ids[t, slot]].double() @ h)
    return out


def test_it_is_the_formula() -> None:
    got = reference(layer_spec(), dtype=torch.float64)(X, IDS, WEIGHTS)
    assert torch.allclose(got.out, plain(), rtol=1e-12, atol=1e-12)
    single = reference(layer_spec())(X, IDS, WEIGHTS).out.double()
    assert float((single - plain()).norm() / plain().norm()) < 1e-6


@pytest.mark.parametrize("layout", [{"tp_size": 2}, {"dp_size": 2, "tp_size": 2, "use_ep": True}])
def test_without_quantization_every_layout_is_the_same(layout: dict[str, object]) -> None:
    got = reference(layer_spec(**layout), dtype=torch.float64)(X, IDS, WEIGHTS)
    assert torch.allclose(got.out, plain(), rtol=1e-12, atol=1e-12)


def test_minus_one_takes_part_in_nothing() -> None:
    ids = IDS.clone()
    ids[3] = -1
    ids[5, 0] = -1
    got = reference(layer_spec(), dtype=torch.float64)(X, ids, WEIGHTS).out
    assert torch.equal(got[3], torch.zeros(HIDDEN, dtype=torch.float64))
    assert torch.allclose(got, plain(ids), rtol=1e-12, atol=1e-12)


def test_each_shard_takes_its_own_token_scale() -> None:
    """Two TP shards: the intermediate's scale is the shard's largest value, not the row's."""
    scheme = ("int8_channel", "int8_token")
    whole = reference(layer_spec(scheme))(X, IDS, WEIGHTS).out
    split = reference(layer_spec(scheme, tp_size=2))(X, IDS, WEIGHTS).out
    assert 0.002 < float((whole - split).norm() / whole.norm()) < 0.05
    fmt = FORMATS["int8_token"]
    ref = reference(layer_spec(scheme, tp_size=2))
    x = formats.quantize(X.float(), formats.activation_scale(X.float(), fmt, None), fmt).values
    expected = torch.zeros(TOKENS, HIDDEN)
    for t in range(TOKENS):
        for slot in range(2):
            w13, w2 = ref.weights(int(IDS[t, slot]))
            h = h_of(x[t : t + 1], w13, Numerics.stated())
            for half in (slice(0, INTER // 2), slice(INTER // 2, INTER)):
                scale = formats.activation_scale(h[:, half], fmt, None)
                q = formats.quantize(h[:, half], scale, fmt).values
                expected[t] += WEIGHTS[t, slot] * (q @ w2[:, half].T)[0]
    assert torch.allclose(split, expected, rtol=1e-4, atol=1e-5)


def test_a_dynamic_tensor_scale_spans_all_rows_of_a_rank() -> None:
    scheme = ("fp8_tensor", "fp8_dynamic")
    small, large = X.clone(), X.clone()
    large[0] *= 64  # one token's outlier coarsens everybody's codes
    first = reference(layer_spec(scheme))(small, IDS, WEIGHTS).out[1:]
    second = reference(layer_spec(scheme))(large, IDS, WEIGHTS).out[1:]
    assert float((first - second).norm() / first.norm()) > 0.01


def test_static_scales_saturate() -> None:
    scheme = ("fp8_tensor", "fp8_static")
    a1, a2 = torch.tensor(4.0 / 448), torch.tensor(8.0 / 448)
    ref = reference(layer_spec(scheme))
    calm = ref(X, IDS, WEIGHTS, a1_scale=a1, a2_scale=a2)
    clipped = ref(X, IDS, WEIGHTS, a1_scale=a1 / 8, a2_scale=a2)
    assert float((calm.out - clipped.out).norm() / calm.out.norm()) > 0.2
    with pytest.raises(AssertionError, match="calibrated scale"):
        ref(X, IDS, WEIGHTS)


def distances(answer: Answer, actual: torch.Tensor) -> torch.Tensor:
    """Squared distance of each row over its expected variance."""
    return (actual - answer.out).square().sum(1) / answer.variance


@pytest.mark.parametrize("declared", [Numerics.stated(), Numerics.stated(expert="model")])
def test_the_variance_is_that_of_the_declared_roundings(declared: Numerics) -> None:
    answer = reference(layer_spec(), declared)(X, IDS, WEIGHTS)
    expert_outputs = torch.zeros(TOKENS, HIDDEN)
    for e in range(EXPERTS):
        rows, slots = (e == IDS).nonzero(as_tuple=True)
        h = h_of(X[rows].float(), W13[e].float(), declared)
        y = h @ W2[e].float().T
        if declared.expert == "model":
            y = y.bfloat16().float()
        expert_outputs.index_add_(0, rows, WEIGHTS[rows, slots, None] * y)
    ratio = distances(answer, expert_outputs.bfloat16().float()).mean()
    assert 0.8 < float(ratio) < 1.25


@pytest.mark.parametrize(
    "scheme", [("int8_channel", "int8_token"), ("fp8_block", "fp8_group"), ("model", "model")]
)
@pytest.mark.parametrize("noise", [2.0**-13, 2.0**-18])
@pytest.mark.parametrize("rounds", ["f32", "model"])
def test_a_member_with_the_declared_noise_stays_inside(
    scheme: tuple[str, str], noise: float, rounds: str
) -> None:
    """Simulated members: the same stages with noise in the first product, many draws."""
    declared = Numerics.stated(gemm1=rounds, activation=rounds, accumulation=noise / HIDDEN**0.5)
    ref = reference(layer_spec(scheme), declared)
    answer = ref(X, IDS, WEIGHTS)
    limit = 2 * answer.variance.sqrt() + answer.flips.sqrt()
    worst, total = 0.0, 0.0
    for seed in range(6):
        actual = _noisy_member(ref, declared, seed)
        distance = (actual - answer.out).norm(dim=1)
        worst = max(worst, float((distance / limit).max()))
        total += float(distances(answer, actual).mean()) / 6
    assert worst < 1.0
    assert 0.5 < total < 2.0, "the expected variance should be about what is seen"


def _noisy_member(ref: BaselineSiluAndMul, declared: Numerics, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = declared.accumulation * HIDDEN**0.5
    fmt = ref.act_format
    quiet = dataclasses.replace(declared, accumulation=0.0)
    x = X.float()
    if fmt.grid != "model":
        x = formats.quantize(x, formats.activation_scale(x, fmt, None), fmt).values
    out = torch.zeros(TOKENS, HIDDEN)
    for e in range(EXPERTS):
        rows, slots = (e == IDS).nonzero(as_tuple=True)
        w13, w2 = ref.weights(e)
        size = x[rows].norm(dim=1, keepdim=True) * w13.norm(dim=1) / math.sqrt(HIDDEN)
        both = x[rows] @ w13.T
        both = both + torch.randn(both.shape, generator=generator) * noise * size
        h = h_of(both, torch.eye(2 * INTER), quiet)
        if fmt.grid != "model":
            h = formats.quantize(h, formats.activation_scale(h, fmt, None), fmt).values
        out.index_add_(0, rows, WEIGHTS[rows, slots, None] * (h @ w2.T))
    return out.bfloat16().float()


@pytest.mark.parametrize(
    "scheme", [("int8_channel", "int8_token"), ("fp8_block", "fp8_group"), ("model", "model")]
)
@pytest.mark.parametrize("rounds", ["f32", "model"])
def test_along_the_row_itself_noise_comes_to_what_is_expected(
    scheme: tuple[str, str], rounds: str
) -> None:
    """Simulated members as above: <y - q, q> of a row, over its expected standard deviation."""
    declared = Numerics.stated(gemm1=rounds, activation=rounds, accumulation=2.0**-15 / HIDDEN**0.5)
    ref = reference(layer_spec(scheme), declared)
    answer = ref(X, IDS, WEIGHTS)
    assert answer.along is not None
    q = answer.out
    fair = (
        3 * q.square().sum(dim=1) * answer.variance / HIDDEN
    )  # as harness/checks/element_and_bias.py has it
    expected = (answer.along[0] + fair).sqrt()
    seen = torch.stack(
        [((_noisy_member(ref, declared, s) - q) * q).sum(dim=1) / expected for s in range(12)]
    )
    assert 0.6 < float(seen.square().mean().sqrt()) < 1.4
    assert float(seen.abs().amax()) < 6  # of so many standard deviations there is room
