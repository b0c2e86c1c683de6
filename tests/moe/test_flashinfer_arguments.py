"""What FlashInfer's kernels take of quantized weights: the same values, in other places."""

import pytest
import torch

from moe import conversions as c
from moe.errors import MoEError
from moe.flashinfer_arguments import cutlass_arguments, trtllm_fp4_arguments
from moe.formats import FORMATS
from moe.formats.quant_tensor import dequantize
from moe.quant import QUANT
from tests.moe.kernels.kernel_cases import layer_spec_of, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")
E, HIDDEN, INTER = 3, 256, 128


def made(quant_name):
    """Weights, and the format of activations, whose calibrated scales are 8 and 4."""
    torch.manual_seed(0)
    spec = layer_spec_of(quant_name, hidden=HIDDEN, intermediate=INTER, num_experts=E)
    given = weights_of(spec, QUANT.load(quant_name)(), "cpu")
    given = given.replace(a1_scale=torch.tensor(8.0), a2_scale=torch.tensor(4.0))
    return given, FORMATS[spec.scheme.activations]


def given_back(arguments, weights):
    """Both matrices, as they were before."""
    return (
        (c.halves_swapped(arguments.w13.view(weights.w13.dtype)), weights.w13),
        (arguments.w2.view(weights.w2.dtype), weights.w2),
    )


def same(a, b):
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize(
    "quant_name", ["none", "fp8_tensor", "mxfp4", "mxfp4_mxfp8", "mxfp8", "nvfp4"]
)
def test_matrices_hold_the_same_codes_with_up_first(quant_name):
    weights, activations = made(quant_name)
    arguments = cutlass_arguments(weights, activations)
    for got, original in given_back(arguments, weights):
        assert same(got, original)
    assert arguments.interleaves == (quant_name == "mxfp4")
    dtypes = {"mxfp4_mxfp8": torch.int64, "nvfp4": torch.int64, "mxfp4": torch.uint8}
    assert arguments.w13.dtype == dtypes.get(quant_name, weights.w13.dtype)
    assert arguments.w13.is_contiguous()


def test_fp8_scales_are_those_of_sums_intermediate_sums_and_input():
    weights, activations = made("fp8_tensor")
    first, between, second, x = cutlass_arguments(weights, activations).scales
    assert torch.equal(first, weights.w13_scale * 8)
    assert (between.item(), x.item(), between.dim(), x.dim()) == (0.25, 8.0, 0, 0)
    assert torch.equal(second, weights.w2_scale * 4)


def test_scales_of_mxfp4_come_back_for_hopper_and_for_blackwell():
    weights, activations = made("mxfp4")
    first, second = cutlass_arguments(weights, activations).scales
    assert (first.shape, second.shape) == ((E, 2, 8 * INTER), (E, 1, 4 * HIDDEN))
    assert torch.equal(c.halves_swapped(c.scales_from_fours(first)), weights.w13_scale)
    assert torch.equal(c.scales_from_fours(second), weights.w2_scale)
    weights, activations = made("mxfp4_mxfp8")
    arguments = cutlass_arguments(weights, activations)
    first, one, second, other = arguments.scales
    assert (first.shape, first.dtype) == ((E, 2 * INTER, HIDDEN // 128), torch.int32)
    assert (second.shape, second.dtype) == ((E, HIDDEN, INTER // 128), torch.int32)
    assert one.tolist() == other.tolist() == [1.0] * E
    back = c.scales_by_row(first.view(torch.uint8), 2 * INTER, HIDDEN // 32)
    assert torch.equal(c.halves_swapped(back), weights.w13_scale)
    assert arguments.options == {"use_mxfp8_act_scaling": True, "swizzled_input_sf": False}


def test_nvfp4_s_factors_and_scales_give_the_weights_values():
    """Of what is passed: code * tile's scale * factor * global scale of the input."""
    weights, activations = made("nvfp4")
    arguments = cutlass_arguments(weights, activations)
    a1, first, gate, a2, second, down = arguments.scales
    assert (a1.item(), a2.item()) == (8.0, 4.0)
    for tiles, factor, a, matrix, swaps in (
        (first, gate, a1, weights.gate_up, True),
        (second, down, a2, weights.down, False),
    ):
        rows, columns = matrix.codes.shape[1], matrix.codes.shape[2] * 2
        plain = c.scales_by_row(tiles.view(torch.uint8), rows, columns // 16)
        scale = (c.halves_swapped(plain) if swaps else plain).view(torch.float8_e4m3fn)
        values = matrix.format.codec.decode(matrix.codes)
        values = values * scale.float().repeat_interleave(16, dim=2) * (factor * a)[:, None, None]
        assert torch.allclose(values, dequantize(matrix), rtol=2.0**-22, atol=0)


@pytest.mark.parametrize("quant_name", ["mxfp4", "nvfp4"])
def test_trtllm_s_fp4_weights_come_back(quant_name):
    weights, _ = made(quant_name)
    given = trtllm_fp4_arguments(weights)
    group = 32 if quant_name == "mxfp4" else 16
    for number, (codes, scale) in enumerate(
        ((weights.w13, weights.w13_scale), (weights.w2, weights.w2_scale)), start=1
    ):
        back = c.unshuffled_rows(given[f"gemm{number}_weights"])
        tiles = given[f"gemm{number}_weights_scale"].view(torch.uint8)
        columns = codes.shape[2] * 2 // group
        scales = c.unshuffled_rows(c.scales_by_row(tiles, codes.shape[1], columns))
        if number == 1:
            back, scales = (c.halves_swapped(c.deinterleaved(t)) for t in (back, scales))
        assert torch.equal(back, codes)
        assert same(scales, scale)
    if quant_name == "mxfp4":
        assert given["output1_scale_scalar"] is given["output2_scale_scalar"] is None
        return
    gate = given["output1_scale_gate_scalar"]
    assert torch.equal(gate, 1 / (8 * weights.w13_global))
    assert torch.equal(given["output1_scale_scalar"], gate * 4)
    assert torch.equal(given["output2_scale_scalar"], 1 / (4 * weights.w2_global))


def test_what_is_missing_or_unknown_is_named():
    weights, activations = made("fp8_tensor")
    with pytest.raises(MoEError, match="no dynamic scales of whole tensors: a1_scale or a2_scale"):
        cutlass_arguments(weights.replace(a2_scale=None), activations)
    with pytest.raises(MoEError, match="w13_scale or w2_scale of fp8_tensor weights is None"):
        cutlass_arguments(weights.replace(w2_scale=None), activations)
    with pytest.raises(MoEError, match="no kernel for fp8_block weights and fp8_group"):
        cutlass_arguments(*made("fp8_block"))


def test_trtllm_s_rows_and_scales_are_flashinfers():
    core = pytest.importorskip("flashinfer.fused_moe.core", reason="flashinfer is not installed")
    weights, _ = made("nvfp4")
    up_first = c.halves_swapped(weights.w13)[0]
    order = core._maybe_get_cached_w3_w1_permute_indices({}, up_first, 128)
    assert torch.equal(trtllm_fp4_arguments(weights)["gemm1_weights"][0], up_first[order])
    order = core.get_w2_permute_indices_with_cache({}, weights.w2[0], 128)
    assert torch.equal(trtllm_fp4_arguments(weights)["gemm2_weights"][0], weights.w2[0][order])
    scales = c.halves_swapped(weights.w13_scale.view(torch.uint8))[0]
    order = core._maybe_get_cached_w3_w1_permute_indices({}, scales, 128, num_elts_per_sf=16)
    tiles = trtllm_fp4_arguments(weights)["gemm1_weights_scale"].view(torch.uint8)
    rows = c.scales_by_row(tiles, 2 * INTER, HIDDEN // 16)[0]
    assert torch.equal(rows, scales[order])
