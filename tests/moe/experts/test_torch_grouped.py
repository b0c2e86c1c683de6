"""The grouped experts against the numerics that their rows declare."""

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.experts import EXPERTS, torch_grouped
from moe.experts.torch_grouped import _grouped_mm, _with_bias
from moe.platforms import platform
from moe.quant import QUANT
from moe.spec import Numerics, experts_refusal
from moe.types import Activations, Routing
from tests.moe.kernels.kernel_cases import (
    expected_output,
    input_of,
    layer_spec_of,
    relative_rms,
    routing_of,
    same,
    weights_of,
)


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _made(device, unused=0.0, **sizes):
    torch.manual_seed(0)
    layer_spec, quant = layer_spec_of("none", **sizes), QUANT.load("none")()
    weights = weights_of(layer_spec, quant, device)
    x = input_of(layer_spec, quant, weights, device)
    return layer_spec, quant, weights, x, routing_of(layer_spec, device, unused)


def _run(layer_spec, quant, weights, x, routing, name="torch_grouped"):
    row = EXPERTS.row(name)
    experts = EXPERTS.load(name)(layer_spec, 0, row.numerics, quant)
    experts.prepare_weights(weights)
    with guarded_buffers.poisoned():
        out = experts.apply(x, routing)
        assert guarded_buffers.broken_guards() == []
    return out.cpu()


@pytest.mark.parametrize("unused", [0.0, 0.5])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"m": 1, "num_experts": 64},  # nearly all experts without a row
        {"m": 7, "hidden": 72, "intermediate": 136, "num_experts": 5, "top_k": 3},
    ],
)
def test_output_is_what_the_numerics_say(sizes, unused, device):
    made = _made(device, unused, **sizes)
    got, wanted = _run(*made), expected_output(*made)
    assert got.dtype == torch.bfloat16
    if float(wanted.abs().amax()) == 0.0:
        assert same(got, wanted)
    else:
        assert relative_rms(got, wanted) < 1e-3


def test_tokens_without_experts_here_are_zero(device):
    made = _made(device, unused=0.6)
    nobody = (made[-1].topk_ids < 0).all(dim=1).cpu()
    assert bool(nobody.any())
    got = _run(*made)[nobody]
    assert same(got, torch.zeros_like(got))


def test_no_token_is_ours(device):
    layer_spec, quant, weights, x, routing = _made(device)
    nobody = Routing(
        topk_ids=torch.full_like(routing.topk_ids, -1), topk_weights=routing.topk_weights
    )
    got = _run(layer_spec, quant, weights, x, nobody)
    assert same(got, torch.zeros(layer_spec.m, layer_spec.hidden, dtype=torch.bfloat16))


def test_no_tokens_at_all(device):
    layer_spec, quant, weights, x, routing = _made(device)
    none = Routing(topk_ids=routing.topk_ids[:0], topk_weights=routing.topk_weights[:0])
    got = _run(layer_spec, quant, weights, Activations(codes=x.codes[:0]), none)
    assert got.shape == (0, layer_spec.hidden)


def test_padding_rows_may_hold_anything(device):
    layer_spec, quant, weights, x, routing = _made(device)
    clean = _run(layer_spec, quant, weights, x, routing)
    routing.topk_ids[3] = -1
    x.codes[3] = float("nan")
    dirty = _run(layer_spec, quant, weights, x, routing)
    others = torch.arange(layer_spec.m) != 3
    assert same(clean[others], dirty[others])


def test_a_bias_is_a_column_of_the_sum_before_its_rounding():
    w = torch.randn(2, 6, 16).bfloat16()
    bias = torch.randn(2, 6).bfloat16()
    joined = _with_bias(w, bias)
    assert joined.shape == (2, 6, 24), "rows stay a multiple of 16 bytes"
    x = torch.randn(5, 16).bfloat16()
    ends = torch.tensor([3, 5], dtype=torch.int32)
    got = _grouped_mm(x, joined.transpose(1, 2), ends)
    exact = torch.cat([x[:3].double() @ w[0].double().T, x[3:].double() @ w[1].double().T])
    exact[:3] += bias[0].double()
    exact[3:] += bias[1].double()
    assert float((got.double() - exact).abs().max() / exact.abs().max()) < 2.0**-8
    assert _with_bias(w, None).data_ptr() == w.data_ptr()


# --- fp8: the product itself runs on Hopper only; on a CPU an equivalent stands in for it


def _product(x, w, w_scale, ends, dtype):
    """Return what scaled_grouped_mm does, from dequantized values; other rows are NaN."""
    y = torch.full((len(x.codes), w.shape[2]), torch.nan, dtype=dtype)
    start = 0
    for e, end in enumerate(ends.tolist()):
        rows = x.codes[start:end].float() * x.scale[start:end]
        y[start:end] = (rows @ (w[e].float() * w_scale[e])).to(dtype)
        start = end
    return y


def _scaled(device, unused=0.0, **sizes):
    torch.manual_seed(0)
    layer_spec, quant = layer_spec_of("fp8_channel", **sizes), QUANT.load("fp8_channel")()
    weights = weights_of(layer_spec, quant, device)
    x = input_of(layer_spec, quant, weights, device)
    return layer_spec, quant, weights, x, routing_of(layer_spec, device, unused)


@pytest.mark.parametrize("unused", [0.0, 0.5])
@pytest.mark.parametrize(
    "sizes",
    [{}, {"m": 1, "num_experts": 64}, {"m": 7, "hidden": 80, "intermediate": 144, "top_k": 3}],
)
def test_fp8_output_is_what_the_numerics_say(sizes, unused, device, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setattr(torch_grouped, "scaled_grouped_mm", _product)
    made = _scaled(device, unused, **sizes)
    got, wanted = _run(*made, name="torch_scaled_grouped"), expected_output(*made)
    nobody = (made[-1].topk_ids < 0).all(dim=1).cpu()
    assert same(got[nobody], torch.zeros_like(got[nobody]))
    if not bool(nobody.all()):
        assert relative_rms(got, wanted) < (1e-3 if device.type == "cpu" else 8e-3)


def test_the_product_is_called_as_torch_declares_it(monkeypatch):
    calls = []

    def record(*arguments, **options):
        calls.append((arguments, options))
        return torch.zeros(())

    schema = torch.ops.aten._scaled_grouped_mm.default._schema
    monkeypatch.setattr(torch, "_scaled_grouped_mm", record)
    _, _, weights, x, _ = _scaled(torch.device("cpu"))
    ends = torch.zeros(8, dtype=torch.int32)
    w = weights.w13.transpose(1, 2)
    torch_grouped.scaled_grouped_mm(x, w, weights.w13_scale, ends, torch.bfloat16)
    ((arguments, options),) = calls
    names = [argument.name for argument in schema.arguments]
    assert names[: len(arguments)] == ["self", "mat2", "scale_a", "scale_b", "offs"]
    assert options == {"out_dtype": torch.bfloat16, "use_fast_accum": False}
    assert options.keys() <= set(names)
    assert [tuple(t.shape) for t in arguments[2:]] == [(32,), (8, 256), (8,)]


@pytest.mark.parametrize("scale", [None, torch.ones(8)])
def test_fp8_needs_a_scale_for_each_row_of_the_weights(scale):
    layer_spec, quant, weights, *_ = _scaled(torch.device("cpu"))
    experts = EXPERTS.load("torch_scaled_grouped")(layer_spec, 0, Numerics.stated(), quant)
    text = r"w13_scale is .*; scaled_grouped_mm takes one scale for each row of the weights"
    with pytest.raises(MoEError, match=text):
        experts.prepare_weights(weights.replace(w13_scale=scale))


def test_fp8_is_refused_where_there_is_no_hopper():
    row = EXPERTS.row("torch_scaled_grouped")
    spec = layer_spec_of("fp8_channel")
    reason = experts_refusal(row.needs, spec, platform("cpu"))
    assert reason.code == "platform_lacks_feature"
    assert experts_refusal(row.needs, spec, platform("cuda_sm90")) is None
