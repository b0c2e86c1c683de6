"""The reference against the plainest formula, and its bounds against simulated members."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import pytest
import torch

from moe.formats import FORMATS
from moe.layout import Layout
from moe.reference import formats
from moe.reference.activation import activation_of
from moe.reference.error_propagation import first_product, intermediate
from moe.reference.layer import BaselineSiluAndMul
from moe.reference.row_matrices import RowMatrices
from moe.spec import LayerSpec, Numerics, Scheme
from tests.moe.reference.plain_member import plain_member

if TYPE_CHECKING:
    from moe.reference.result import Answer

pytestmark = pytest.mark.usefixtures("one_thread")
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
    return intermediate(
        first_product(x, RowMatrices.one(w13), numerics), numerics, "bf16", activation_of("silu")
    ).value


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


SCHEMES = [("model", "model"), ("fp8_block", "fp8_group"), ("int8_channel", "int8_token")]
# Places before the second product, each against the plainest computation with casts of torch.
EARLY = [
    {"activated_gate": "model"},
    {"gemm1": "model", "activated_gate": "model", "activation": "model"},
    {"weight_on": "intermediate"},
    {"weight_on": "intermediate", "weight_dtype": "model", "weighted": "model"},
    {"weight_on": "intermediate", "activation": "model", "weighted": "model"},
    {"weight_on": "input"},
    {"weight_on": "input", "weighted": "model"},
    {"weight_on": "input", "weighted": "model", "weight_dtype": "model"},
]


def member(ref: BaselineSiluAndMul, numerics: Numerics, **options: object) -> torch.Tensor:
    fmt = ref.act_format.name
    return plain_member(X, IDS, WEIGHTS, ref.weights, numerics, fmt, **options)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s[1])
@pytest.mark.parametrize("places", EARLY, ids=lambda places: ",".join(places))
def test_a_rounding_before_the_second_product_is_made_where_it_is_declared(
    scheme: tuple[str, str], places: dict[str, str]
) -> None:
    numerics = Numerics.stated(**places)
    ref = reference(layer_spec(scheme), numerics)
    actual = member(ref, numerics)
    near = distances(ref(X, IDS, WEIGHTS), actual)
    assert 0.5 < float(near.mean()) < 1.5  # what is left is the rounding of the output
    plainly = ref.with_numerics(Numerics.stated())(X, IDS, WEIGHTS)
    far = (actual - plainly.out).norm() / (actual - ref(X, IDS, WEIGHTS).out).norm()
    if "model" in places.values():  # a dynamic scale hides a factor of the row
        assert float(far) > 1.02, "the place changes the values"


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s[1])
@pytest.mark.parametrize(
    "places",
    [
        {"weighted": "model"},
        {"weight_dtype": "model"},
        {"expert": "model", "weighted": "model"},
        {"combine": "model"},
    ],
    ids=lambda places: ",".join(places),
)
def test_a_rounding_after_the_second_product_is_counted_once(
    scheme: tuple[str, str], places: dict[str, str]
) -> None:
    numerics = Numerics.stated(**places)
    ref = reference(layer_spec(scheme), numerics)
    ratio = float(distances(ref(X, IDS, WEIGHTS), member(ref, numerics)).mean())
    assert 0.5 < ratio < 1.3
    if "weight_dtype" not in places:
        plainly = ref.with_numerics(Numerics.stated())(X, IDS, WEIGHTS)
        assert float((ref(X, IDS, WEIGHTS).variance / plainly.variance).mean()) > 1.3


def test_a_rounded_router_weight_changes_the_values() -> None:
    rounded = reference(layer_spec(), Numerics.stated(weight_dtype="model"))
    exact = reference(layer_spec())(X, IDS, WEIGHTS)
    answer = rounded(X, IDS, WEIGHTS)
    expected = reference(layer_spec())(X, IDS, WEIGHTS.bfloat16().float())
    assert torch.equal(answer.out, expected.out)
    assert not torch.equal(answer.out, exact.out)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s[1])
@pytest.mark.parametrize("weight_dtype", ["f32", "model"])
def test_weights_of_which_it_is_not_known_whether_they_are_rounded_are_noise(
    scheme: tuple[str, str], weight_dtype: str
) -> None:
    """Over many draws of weights, a member of either kind stays inside, row by row and along it."""
    ref = reference(layer_spec(scheme), Numerics.stated(weight_dtype="either"))
    actual_numerics = Numerics.stated(weight_dtype=weight_dtype)
    ratios, along = [], []
    for seed in range(8):
        weights = torch.rand(TOKENS, 2, generator=torch.Generator().manual_seed(seed)) + 0.2
        answer = ref(X, IDS, weights)
        assert answer.along is not None
        args = (X, IDS, weights, ref.weights, actual_numerics, ref.act_format.name)
        off = plain_member(*args) - answer.out  # type: ignore[no-untyped-call]
        ratios.append(off.square().sum(dim=1) / answer.variance)
        fair = 3 * answer.out.square().sum(dim=1) * answer.variance / HIDDEN
        free = (off * answer.out).sum(dim=1).abs() - answer.along[3].abs()
        along.append(free / (fair + answer.along[0]).sqrt())
    mean = float(torch.cat(ratios).mean())
    assert (0.4 if weight_dtype == "model" else 0.1) < mean < 1.3
    assert float(torch.cat(ratios).amax()) < 4  # (2.0 * sqrt(variance))^2
    assert float(torch.cat(along).amax()) < 6


def test_the_error_along_the_output_of_rounded_weights_has_a_sign() -> None:
    ref = reference(layer_spec(), Numerics.stated(weight_dtype="either"))
    answer = ref(X, IDS, WEIGHTS)
    moved = reference(layer_spec())(X, IDS, WEIGHTS.bfloat16().float()).out - answer.out
    assert answer.along is not None
    assert torch.allclose(answer.along[3], (moved * answer.out).sum(dim=1), rtol=1e-3, atol=1e-4)
    known = reference(layer_spec())(X, IDS, WEIGHTS).along
    assert known is not None
    assert not known[3].any()


@pytest.mark.parametrize(
    "places",
    [{"scale": "divided"}, {"amax_floor": 4.0}, {"amax_epsilon": 0.5}],
    ids=lambda places: next(iter(places)),
)
@pytest.mark.parametrize("scheme", [("fp8_block", "fp8_group"), ("int8_channel", "int8_token")])
def test_a_dynamic_scale_is_made_as_declared(
    scheme: tuple[str, str], places: dict[str, object]
) -> None:
    numerics = Numerics.stated(**places)
    ref = reference(layer_spec(scheme), numerics)
    actual = member(ref, numerics)
    answer = ref(X, IDS, WEIGHTS)
    assert 0.5 < float(distances(answer, actual).mean()) < 1.5
    if "scale" not in places:  # a scale of one more step changes too little to be seen here
        plainly = ref.with_numerics(Numerics.stated())(X, IDS, WEIGHTS)
        assert float(distances(plainly, actual).mean()) > 3


@pytest.mark.parametrize("fmt", ["fp8_tensor_dynamic", "fp8_static"])
@pytest.mark.parametrize("weight_on", ["input", "intermediate", "output"])
def test_one_scale_for_all_tokens_is_that_of_the_weighted_rows(fmt: str, weight_on: str) -> None:
    act = "fp8_static" if fmt == "fp8_static" else "fp8_dynamic"
    numerics = Numerics.stated(weight_on=weight_on, weighted="model", weight_dtype="model")
    ref = reference(layer_spec(("fp8_tensor", act)), numerics)
    scales = torch.tensor(5.0 / 448), torch.tensor(9.0 / 448)
    if act == "fp8_static":
        answer = ref(X, IDS, WEIGHTS, a1_scale=scales[0], a2_scale=scales[1])
        assert 0.3 < float(distances(answer, member(ref, numerics, static=scales)).mean()) < 1.5
        return
    answer = ref(X, IDS, WEIGHTS)
    first = answer.tensor_scales[0]
    factor = WEIGHTS.bfloat16().float() if weight_on == "input" else torch.ones_like(WEIGHTS)
    weighted = (X.float()[:, None] * factor[:, :, None]).bfloat16().float()
    assert first is not None
    assert float(first) == pytest.approx(float(weighted.abs().amax()) / 448, rel=1e-6)


def test_an_approximate_activation_is_within_its_declared_error() -> None:
    error = 2.0**-9
    ref = reference(layer_spec(), Numerics.stated(activation_error=error))
    answer, exact = ref(X, IDS, WEIGHTS), reference(layer_spec())(X, IDS, WEIGHTS)
    assert torch.equal(answer.out, exact.out)
    generator = torch.Generator().manual_seed(0)

    def approximate(gate: torch.Tensor) -> torch.Tensor:
        wrong = torch.rand(gate.shape, generator=generator) * 2 - 1
        return torch.nn.functional.silu(gate) * (1 + error * wrong)

    actual = member(ref, Numerics.stated(), f=approximate)
    assert 0.7 < float(distances(answer, actual).mean()) < 1.3
    assert float(distances(exact, actual).mean()) > 1.3 * float(distances(answer, actual).mean())


def test_a_sum_over_ranks_in_float32_is_rounded_once() -> None:
    layouts = {"tp_size": 4}
    once = reference(layer_spec(**layouts), Numerics.stated(reduction="f32"))(X, IDS, WEIGHTS)
    often = reference(layer_spec(**layouts))(X, IDS, WEIGHTS)
    off = (once.out.bfloat16().float() - once.out).square().sum(dim=1)
    assert 0.8 < float((off / once.variance).mean()) < 1.25
    assert float((often.variance / once.variance).mean()) > 2


def test_numerics_with_open_places_are_refused() -> None:
    text = r"numerics do not state .*activation, .* state every place"
    with pytest.raises(ValueError, match=text):
        reference(layer_spec(), Numerics(gemm1="f32", activated_gate="f32"))
