"""Codes and scales beside those of released packages, bit for bit, where one is installed."""

import pytest
import torch

from moe.formats import FORMATS
from moe.kernels.quantize_groups import global_scale, quantize_groups_torch

WHY = "install compressed-tensors, torchao or nvidia-modelopt to compare with it"


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


def test_nvfp4_is_that_of_modelopt():
    module = pytest.importorskip("modelopt.torch.quantization.qtensor", reason=WHY)
    x, fmt = values(), FORMATS["nvfp4"]
    x[3, :64] = 1.0  # zeros have the scale 1 there
    tensor = quantize_groups_torch(x, fmt, global_scale(x.abs().amax(), fmt))
    stored, scale, _ = module.NVFP4QTensor.quantize(x, 16)
    assert float((tensor.scale.float() != scale.float()).float().mean()) < 1e-3, "ties aside"
    same = (tensor.scale.float() == scale.float()).repeat_interleave(8, dim=1)
    own, other = tensor.codes[same], stored._quantized_data.reshape(tensor.codes.shape)[same]
    assert float((own != other).float().mean()) < 1e-3
