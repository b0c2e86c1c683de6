"""Codes and scales beside those of released packages, bit for bit, where one is installed."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

from moe.formats import FORMATS
from moe.formats.quant_tensor import dequantize, spread_scale
from moe.kernels.quantize_groups import global_scale, quantize_groups_torch
from moe.kernels.quantize_weights import moe_quantize_weights_torch
from moe.quant.checkpoint_layouts import AWQ, GPTQ, IN_ORDER, words

WHY = "install the extra `formats` to compare with released packages"


def values():
    torch.manual_seed(0)
    x = torch.randn(64, 512) * torch.exp2(torch.randn(64, 16) * 3).repeat_interleave(32, dim=1)
    x[3, :64] = 0
    return x.bfloat16().float()


def compressed(x, name, global_scale=None):
    """Scales, zero points and codes as numbers, by compressed-tensors."""
    args_module = pytest.importorskip("compressed_tensors.quantization", reason=WHY)
    from compressed_tensors.quantization import lifecycle
    from compressed_tensors.quantization.utils import calculate_qparams

    fmt = FORMATS[name]
    is_float = fmt.grid == "e2m1"
    args = args_module.QuantizationArgs(
        num_bits=4 if fmt.packing > 1 else 8,
        type="float" if is_float else "int",
        symmetric=not fmt.zero_point,
        strategy="tensor_group" if is_float else "group",
        group_size=fmt.group,
        scale_dtype=torch.float8_e4m3fn if is_float else None,
    )
    groups = x.unflatten(1, (-1, fmt.group))
    low, high = groups.amin(dim=2), groups.amax(dim=2)
    scale, zero = calculate_qparams(low, high, args, global_scale=global_scale)
    codes = lifecycle.forward.quantize(
        x, scale, None if not fmt.zero_point else zero, args, global_scale=global_scale
    )
    return scale, zero, codes


@pytest.mark.parametrize(
    "name", ["int4_g32", "int4_g128", "int8_g64", "int4_zp_g32", "int8_zp_g64"]
)
def test_integers_are_those_of_compressed_tensors(name):
    x, fmt = values(), FORMATS[name]
    scale, zero, codes = compressed(x, name)
    tensor = quantize_groups_torch(x, fmt)
    live = x.unflatten(1, (-1, fmt.group)).abs().amax(dim=2) > 0  # theirs is tiny for zeros
    assert torch.equal(tensor.scale[live], scale[live])
    own = fmt.codec.decode(tensor.codes)
    half = (fmt.top + 1) / 2  # theirs are signed
    if fmt.zero_point:
        assert torch.equal(tensor.zero_point.float()[live] - half, zero.float()[live])
        own = own - half
    is_live = live.repeat_interleave(fmt.group, dim=1)
    assert torch.equal(own[is_live], codes.float()[is_live])


def test_nvfp4_is_that_of_compressed_tensors():
    x, fmt = values(), FORMATS["nvfp4"]
    total = global_scale(x.abs().amax(), fmt)
    scale, _, codes = compressed(x, "nvfp4", total)
    tensor = quantize_groups_torch(x, fmt, total)
    live = x.unflatten(1, (-1, 16)).abs().amax(dim=2) / 6 * total > 2.0**-9  # below, it has more
    assert torch.equal(tensor.scale.float()[live], scale.float()[live])
    is_live = live.repeat_interleave(16, dim=1)
    assert torch.equal(fmt.codec.decode(tensor.codes)[is_live], codes.float()[is_live])


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4"])
def test_microscaling_is_that_of_torchao(name):
    pytest.importorskip("torchao.prototype.mx_formats", reason=WHY)
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import to_mx

    x, fmt = values(), FORMATS[name]
    dtype = torch.float8_e4m3fn if name == "mxfp8" else torch.float4_e2m1fn_x2
    rule = {"floor": ScaleCalculationMode.FLOOR, "up": ScaleCalculationMode.RCEIL}
    scale, codes = to_mx(x, dtype, 32, rule[fmt.scale_rounding])
    tensor = quantize_groups_torch(x, fmt)
    assert torch.equal(tensor.scale, scale.view(torch.uint8).reshape(tensor.scale.shape))
    assert torch.equal(
        tensor.codes.view(torch.uint8), codes.view(torch.uint8).reshape(tensor.codes.shape)
    )


def assert_only_ties_differ(tensor, values, ratio):
    """Assert that e2m1 values are other values at ties only. ratio: of the input to the scale.

    modelopt rounds a tie of e2m1 to the smaller value in part; ours go to the even code.
    """
    own = tensor.format.codec.decode(tensor.codes)
    apart = own != values
    assert 0 < int(apart.sum()) < 0.02 * apart.numel(), "there are ties"
    tie = (own + values)[apart] / 2
    assert torch.allclose(ratio[apart], tie, rtol=1e-6, atol=0)


def test_nvfp4_is_that_of_modelopt():
    module = pytest.importorskip("modelopt.torch.quantization.qtensor", reason=WHY)
    x, fmt = values(), FORMATS["nvfp4"]
    x[3, :64] = 1.0  # zeros have the scale 1 there
    tensor = quantize_groups_torch(x, fmt, global_scale(x.abs().amax(), fmt))
    stored, scale, _ = module.NVFP4QTensor.quantize(x, 16)
    assert torch.equal(tensor.scale.float(), scale.float())
    codes = stored._quantized_data.reshape(tensor.codes.shape)
    assert_only_ties_differ(tensor, fmt.codec.decode(codes), x / spread_scale(tensor))


def test_microscaling_is_that_of_modelopt():
    """Its mxfp4 rounds scales up, which is ours with that rule; both decode the same."""
    module = pytest.importorskip("modelopt.torch.quantization.qtensor", reason=WHY)
    x, fmt = values(), FORMATS["mxfp8"]
    tensor = quantize_groups_torch(x, fmt)
    stored, scale = module.MXFP8QTensor.quantize(x)
    assert torch.equal(tensor.scale, scale)
    assert torch.equal(tensor.codes.view(torch.uint8), stored._quantized_data.view(torch.uint8))
    fmt = dataclasses.replace(FORMATS["mxfp4"], scale_rounding="up")
    tensor = quantize_groups_torch(x, fmt)
    stored, scale = module.MXFP4QTensor.quantize(x, 32)
    assert torch.equal(tensor.scale, scale.view(tensor.scale.shape))
    codes = stored._quantized_data.reshape(tensor.codes.shape)
    assert_only_ties_differ(tensor, fmt.codec.decode(codes), x / spread_scale(tensor))
    tensor = quantize_groups_torch(x, FORMATS["mxfp4"])
    read = module.MXFP4QTensor(x.shape, x.dtype, tensor.codes).dequantize(
        torch.float32, scale=tensor.scale, block_sizes={-1: 32}
    )
    assert torch.equal(read, dequantize(tensor))


def test_transformers_reads_mxfp4_of_experts_as_we_do():
    """gpt-oss's blocks [e, O, groups, 16] and scales [e, O, groups]; it returns [e, I, O]."""
    module = pytest.importorskip("transformers.integrations.mxfp4", reason=WHY)
    w = torch.stack([values(), 3 * values().flip(0)])
    tensor = moe_quantize_weights_torch(w, FORMATS["mxfp4"])
    blocks = tensor.codes.view(*tensor.scale.shape, 16)
    read = module.convert_moe_packed_tensors(blocks, tensor.scale, dtype=torch.float32)
    assert torch.equal(read.mT, dequantize(tensor))


def test_words_in_order_are_those_of_compressed_tensors():
    module = "compressed_tensors.compressors.pack_quantized.helpers"
    helpers = pytest.importorskip(module, reason=WHY)
    codes = torch.randint(-8, 8, (16, 64), dtype=torch.int8)
    assert torch.equal(helpers.pack_to_int32(codes, 4), words(codes + 8, IN_ORDER))
    packed = quantize_groups_torch(values(), FORMATS["int4_g32"])
    signed = (packed.format.codec.decode(packed.codes)).to(torch.int8)
    stored = GPTQ.store(packed.replace(codes=packed.codes[None], scale=packed.scale[None]))
    assert torch.equal(stored.qweight[0].mT, helpers.pack_to_int32(signed, 4))


def lone_module(package, path):
    """Load one file of an installed package, whose own import needs older releases of others."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("install auto-gptq 0.7.1 and autoawq 0.2.9 with --no-deps to compare with them")
    file = Path(spec.submodule_search_locations[0], path)
    lone = importlib.util.spec_from_file_location(f"lone_{file.stem}", file)
    module = importlib.util.module_from_spec(lone)
    lone.loader.exec_module(module)
    return module


def of_powers_of_two(name):
    """A matrix [64, 256] of four-bit codes whose scales are exact in fp16, zero points not 0."""
    x = (torch.randint(-7, 8, (64, 256)) * 2.0**-6).float()
    fmt = FORMATS[name]
    x[:, :: fmt.group], x[:, 1 :: fmt.group] = fmt.peak * 2.0**-6, -(fmt.top // 2) * 2.0**-6
    if fmt.zero_point:
        x[:, :: fmt.group] = (fmt.top + 1) / 2 * 2.0**-6
    tensor = moe_quantize_weights_torch(x[None], fmt)
    assert set(tensor.scale.flatten().tolist()) == {2.0**-6}
    return tensor


@pytest.mark.parametrize("name", ["int4_g32", "int4_zp_g128"])
def test_a_checkpoint_of_gptq_is_that_of_auto_gptq(name):
    module = lone_module("auto_gptq", "nn_modules/qlinear/qlinear_exllama.py")
    tensor = of_powers_of_two(name)
    stored = GPTQ.store(tensor)
    layer = module.QuantLinear(4, tensor.format.group, 256, 64, bias=False)
    linear = torch.nn.Linear(256, 64, bias=False)
    linear.weight.data = dequantize(tensor)[0]
    zeros = tensor.zero_point[0].float() if tensor.format.zero_point else torch.full((64, 8), 8.0)
    layer.pack(linear, tensor.scale[0].clone(), zeros)
    assert torch.equal(layer.qweight, stored.qweight[0])
    assert torch.equal(layer.qzeros, stored.qzeros[0])
    assert torch.equal(layer.scales.float(), stored.scales[0])


def test_a_checkpoint_of_awq_is_read_by_autoawq():
    module = lone_module("awq", "utils/packing_utils.py")
    tensor = of_powers_of_two("int4_zp_g64")
    stored = AWQ.store(tensor)
    parts = [t[0].contiguous() for t in (stored.qweight, stored.qzeros, stored.scales)]
    assert torch.equal(module.dequantize_gemm(*parts, 4, 64).mT, dequantize(tensor)[0])
