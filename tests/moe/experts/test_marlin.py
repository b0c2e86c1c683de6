"""Marlin's experts: converted weights, arguments, refusals; the kernels where there is a GPU."""

import types

import pytest
import torch

from moe import intermediates, marlin_layout
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.experts.marlin import MarlinExperts, marlin_weights
from moe.formats.nibbles import pack
from moe.formats.quant_tensor import dequantize, spread_blocks
from moe.platforms import platform
from moe.quant import QUANT
from moe.spec import experts_refusal
from tests.moe.experts.unrun_backends import Recorder, install, made
from tests.moe.experts.vllm_cases import problem, run, where_it_runs
from tests.moe.kernels.kernel_cases import expected_output, layer_spec_of, relative_rms

pytestmark = pytest.mark.usefixtures("one_thread")
ROW = EXPERTS.row("marlin")
QUANTS = [
    *(f"int4_g{group}" for group in (32, 64, 128)),
    *(f"int4_zp_g{group}" for group in (32, 64, 128)),
    *(f"int8_g{group}" for group in (32, 64, 128)),
    "mxfp4",
]
SIZES = {"hidden": 384, "intermediate": 256}


def values_of(converted, weights):
    """Read a converted matrix back and dequantize it as Marlin does: in the layer's dtype."""
    bits = 8 if weights.format.grid == "int8" else 4
    codes = marlin_layout.untiled(converted.tiles, bits)
    stored = pack(codes) if bits == 4 else (codes ^ 0x80).view(torch.int8)
    steps = weights.format.codec.decode(stored)
    if converted.scales.element_size() == 1:
        powers = marlin_layout.powers_by_row(converted.scales.view(torch.uint8))
        scales = powers.view(torch.float8_e8m0fnu).bfloat16()
    else:
        scales = marlin_layout.scales_by_row(converted.scales)
    if converted.zeros is not None:
        zeros = marlin_layout.zero_points_by_row(converted.zeros)
        steps = steps - spread_blocks(weights, zeros.float())
    return (steps.bfloat16() * spread_blocks(weights, scales)).float()


@pytest.mark.parametrize("quant_name", QUANTS)
def test_converted_weights_are_the_same_values(quant_name):
    """To the last bit but that of the scale, which is rounded to bf16, and of its product."""
    weights = problem(quant_name, device="cpu", **SIZES)[2]
    for matrix in (weights.gate_up, weights.down):
        plain = dequantize(matrix)
        got = values_of(marlin_weights(matrix, torch.bfloat16), matrix)
        error = (got - plain).abs()
        assert bool((error <= plain.abs() * 2.0**-7).all())
        assert (float(error.max()) == 0) == (quant_name == "mxfp4")


@pytest.fixture
def fused(monkeypatch):
    fused = Recorder()
    names = ("vllm", "vllm__model_executor", "vllm__model_executor__layers")
    experts = f"{names[-1]}__fused_moe"
    enum = types.SimpleNamespace(from_str=lambda name: f"enum {name}")
    kinds = ("uint4b8", "uint4", "uint8b128", "float4_e2m1f")
    ids = {kind: types.SimpleNamespace(id=f"id of {kind}") for kind in kinds}
    install(
        monkeypatch,
        **{name: {} for name in (*names, experts, f"{experts}__experts")},
        **{f"{experts}__activation": {"MoEActivation": enum}},
        **{f"{experts}__experts__marlin_moe": {"fused_marlin_moe": fused}},
        vllm__scalar_type={"scalar_types": types.SimpleNamespace(**ids)},
    )
    return fused


@pytest.mark.parametrize(
    ("quant_name", "kind"),
    [
        ("int4_g64", "uint4b8"),
        ("int4_zp_g32", "uint4"),
        ("int8_g128", "uint8b128"),
        ("mxfp4", "float4_e2m1f"),
    ],
)
def test_what_the_kernel_is_given(fused, quant_name, kind):
    backend, x, routing, _ = made("marlin", quant_name, unused=0.5, **SIZES)
    with intermediates.recording() as kept:
        backend.apply(x, routing)
    (x_given, w13, w2, b13, b2, s13, s2, weights, ids, given_kind), options = fused.calls[-1]
    assert x_given is x.codes
    assert given_kind == f"id of {kind}"
    assert (w13.shape[1] * 16, w2.shape[1] * 16) == (384, 256), "as the function itself checks"
    assert (b13, b2) == (None, None)
    assert (s13.shape[2], s2.shape[2]) == (512, 384)
    assert torch.equal(weights, routing.topk_weights)
    assert torch.equal(ids, routing.topk_ids.where(routing.topk_ids >= 0, torch.tensor(8)).int())
    assert options["global_num_experts"] == 9
    assert options["expert_map"].tolist() == [*range(8), -1]
    assert options["activation"] == "enum silu"
    assert (options["w1_zeros"] is None) == (kind != "uint4")
    sizes = {name: stage.value.shape for name, stage in kept.items()}
    assert sizes == {"activation": (64, 256), "weighted": (64, 384)}


def test_formats_that_marlin_does_not_have_and_single_groups_are_errors():
    with pytest.raises(MoEError, match="no weights of format 'int8_zp_g32'; choose a quant"):
        marlin_weights(problem("int8_zp_g32", device="cpu")[2].down, torch.bfloat16)
    with pytest.raises(MoEError, match="rows of 128 are one group of int4_g128"):
        marlin_weights(problem("int4_g128", device="cpu")[2].down, torch.bfloat16)


@pytest.mark.parametrize(
    ("quant_name", "fields", "code", "text"),
    [
        ("int4_g128", {"intermediate": 192}, "size_not_multiple", "192 is not a multiple of 128"),
        ("int4_g128", {"intermediate": 128}, "single_group", "size 128 is a single group of int4"),
        ("int4_g128", {"hidden": 128}, "single_group", "hidden size 128 is a single group"),
        ("int4_g32", {"intermediate": 96}, "size_not_multiple", "96 is not a multiple of 64"),
        ("int4_g32", {"hidden": 192}, "size_not_multiple", "192 is not a multiple of 128"),
        ("mxfp4", {"hidden": 384}, "size_not_multiple", "384 is not a multiple of 256"),
        ("mxfp4", {"dtype": "fp16"}, "dtype_unsupported", "takes mxfp4 in bf16 only"),
        ("int4_g32", {"dtype": "fp16"}, None, ""),
        ("int4_g32", {"num_experts": 992}, "too_many_experts", "at most 991 experts"),
        ("int8_zp_g32", {}, "weight_format_unsupported", "not int8_zp_g32"),
        ("int4_g32", {"activation": "relu2"}, "activation_unsupported", "not relu2"),
    ],
)
def test_what_marlin_refuses(monkeypatch, quant_name, fields, code, text):
    monkeypatch.setattr("moe.needs.package_refusal", lambda package: None)
    spec = layer_spec_of(quant_name, **{"hidden": 512, "intermediate": 256} | fields)
    reason = experts_refusal(ROW.needs, spec, platform("cuda_sm90"))
    assert (None if reason is None else reason.code) == code
    assert text in ("" if reason is None else reason.text)


def test_without_the_package_it_is_refused_by_name():
    reason = experts_refusal(ROW.needs, layer_spec_of("mxfp4"), platform("cpu"))
    assert reason.code == "platform_lacks_feature"
    assert {q.name for q in QUANT if (q.scheme.weights, "model") in ROW.needs.formats} >= {*QUANTS}


@where_it_runs("marlin")
@pytest.mark.parametrize("quant_name", QUANTS)
def test_the_kernels_are_right(quant_name):
    for unused in (0.0, 0.5):
        made_ = problem(quant_name, unused, hidden=512, intermediate=256)
        got = run(MarlinExperts, *made_)
        assert relative_rms(got, expected_output(*made_)) < 1e-2


def test_it_claims_no_equal_bits():
    """Sums of some blocks are divided, and atomic additions decide which rows are in a block."""
    assert not ROW.deterministic
