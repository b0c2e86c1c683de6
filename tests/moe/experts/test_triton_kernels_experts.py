"""triton_kernels' experts: layouts there and back, metadata of both packages; kernels on a GPU."""

import importlib.util

import pytest
import torch

from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.experts.triton_kernels_experts import TritonKernelsExperts, routing_data, swizzled
from moe.platforms import platform
from moe.spec import experts_refusal
from tests.moe.experts.unrun_backends import install
from tests.moe.experts.vllm_cases import problem, run, where_it_runs
from tests.moe.kernels.kernel_cases import expected_output, layer_spec_of, relative_rms

pytestmark = pytest.mark.usefixtures("one_thread")
ROW = EXPERTS.row("triton_kernels")
HOPPER = {
    "make_default_matmul_mxfp4_w_layout": "HopperMXValueLayout",
    "make_default_matmul_mxfp4_w_scale_layout": "HopperMXScaleLayout",
}
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("triton_kernels") is None, reason="triton_kernels is not installed"
)


@needs_package
@pytest.mark.parametrize("chip", ["plain", "hopper"])
def test_weights_and_scales_come_back_from_the_layout_of_a_chip(monkeypatch, chip):
    from triton_kernels import tensor
    from triton_kernels.tensor_details import layout

    for function, name in HOPPER.items():
        kind = getattr(layout, name) if chip == "hopper" else layout.StridedLayout
        options = {"mx_axis": 1} if chip == "hopper" else {}
        monkeypatch.setattr(
            layout, function, lambda kind=kind, options=options, **_: (kind, options)
        )
    weights = problem("mxfp4", device="cpu", hidden=512, intermediate=320)[2]
    for codes, scale in ((weights.w13, weights.w13_scale), (weights.w2, weights.w2_scale)):
        values, scales = swizzled(codes, scale)
        assert values.shape == [len(codes), 2 * codes.shape[2], codes.shape[1]]
        plain = tensor.convert_layout(values, layout.StridedLayout).storage.data
        rows, columns = codes.shape[2], codes.shape[1]
        assert torch.equal(plain[:, :rows, :columns].transpose(1, 2), codes)
        plain = tensor.convert_layout(scales, layout.StridedLayout).storage.data
        rows, columns = scale.shape[2], scale.shape[1]
        assert torch.equal(plain[:, :rows, :columns].transpose(1, 2), scale)
        moved = not torch.equal(values.storage.data.flatten(), codes.transpose(1, 2).flatten())
        assert moved == (chip == "hopper")


ENDS = torch.tensor([2, 2, 5], dtype=torch.int32)


def made_of(*arguments):
    return arguments


@pytest.mark.parametrize(
    ("module", "function", "rest"),
    [
        ("routing", "compute_expt_data", (3, 7)),
        ("tensor", "make_ragged_tensor_metadata", (7,)),
    ],
)
def test_both_forms_of_metadata_are_made(monkeypatch, module, function, rest):
    install(
        monkeypatch,
        triton_kernels={},
        triton_kernels__routing={},
        triton_kernels__tensor={},
        triton_kernels__matmul_ogs={"RoutingData": made_of},
    )
    install(monkeypatch, **{f"triton_kernels__{module}": {function: made_of}})
    gates, counts, experts, chosen, data = routing_data(ENDS, 7)
    assert (gates, experts, chosen) == (None, 3, 1)
    assert counts.tolist() == [2, 0, 3]
    assert counts.dtype == torch.int32
    assert torch.equal(data[0], counts)
    assert data[1:] == rest


def test_a_package_that_has_neither_is_named(monkeypatch):
    install(monkeypatch, **{f"triton_kernels{name}": {} for name in ("", "__routing", "__tensor")})
    with pytest.raises(MoEError, match="has neither routing"):
        routing_data(ENDS, 7)


@pytest.mark.parametrize(
    ("chip", "fields", "code"),
    [
        ("cuda_sm80", {}, "platform_lacks_feature"),
        ("cuda_sm90", {"quant": "int4_g32"}, "weight_format_unsupported"),
        ("cuda_sm90", {"quant": "mxfp4", "intermediate": 96}, "size_not_multiple"),
        ("cuda_sm90", {"quant": "mxfp4", "hidden": 128, "intermediate": 320}, "size_too_small"),
        ("cuda_sm90", {"quant": "mxfp4", "hidden": 2880, "intermediate": 320}, None),
    ],
)
def test_what_it_refuses(monkeypatch, chip, fields, code):
    monkeypatch.setattr("moe.needs.package_refusal", lambda package: None)
    given = {"quant": "none"} | fields
    reason = experts_refusal(ROW.needs, layer_spec_of(**given), platform(chip))
    assert (reason and reason.code) == code


@where_it_runs("triton_kernels")
@pytest.mark.parametrize("quant_name", ["none", "mxfp4"])
def test_the_kernels_are_right(quant_name):
    for unused, sizes in ((0.0, {"m": 1, "top_k": 1}), (0.5, {"hidden": 512}), (0.2, {"m": 300})):
        made = problem(quant_name, unused, **({"hidden": 256} | sizes))
        got = run(TritonKernelsExperts, *made)
        assert relative_rms(got, expected_output(*made)) < 6e-3
