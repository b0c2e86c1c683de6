"""The grouped GEMM against its float64 twin, in every scale format that goes together."""

import dataclasses

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor
from moe.kernels.align import align_tokens
from moe.kernels.grouped_gemm import grouped_gemm, grouped_gemm_torch
from moe.kernels.quantize import quantize_rows
from moe.kernels.tiles import Tile
from tests.moe.kernels.kernel_cases import relative_rms

_E, _K, _N, _TOP_K = 3, 256, 200, 2


def _ids(tokens=11, seed=0):
    torch.manual_seed(seed)
    ids = torch.randint(0, _E, (tokens, _TOP_K), dtype=torch.int32)
    ids[1] = -1
    ids[4, 0] = -1
    return ids


def _tensor(codes, scale, block, device):
    """In a format of its own; without scales, in the model's."""
    codes = codes.to(device)
    if scale is None:
        return QuantTensor(codes=codes)
    grid = FORMATS["int8_token" if codes.dtype == torch.int8 else "fp8_group"]
    fmt = dataclasses.replace(grid, name="tested", block=block)
    return QuantTensor(codes=codes, scale=scale.to(device), format=fmt)


def _both(
    x, w, device, *, x_scale=None, w_scale=None, blocks=((None, None), (None, None)), **options
):
    """Kernel and twin on the rows in use, and which rows those are."""
    ids = _ids().to(device)
    aligned = align_tokens(ids, _E, 16)
    x, w = _tensor(x, x_scale, blocks[0], device), _tensor(w, w_scale, blocks[1], device)
    options = {"rows": ids.numel(), "dtype": torch.float32} | options
    with guarded_buffers.poisoned():
        got = grouped_gemm(x, w, aligned, **options)
        assert guarded_buffers.broken_guards() == []
    used = ids.view(-1) >= 0
    assert bool(got[~used].isnan().all()), "a row that is not in use was written"
    return got[used], grouped_gemm_torch(x, w, aligned, **options)[used]


def _weights(dtype):
    torch.manual_seed(1)
    w = torch.randn(_E, _N, _K)
    return (w * 40).clamp(-127, 127).to(dtype) if dtype.itemsize == 1 else (w / 16).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_plain_types(dtype, kernel_device):
    got, wanted = _both(torch.randn(11, _K).to(dtype), _weights(dtype), kernel_device)
    assert relative_rms(got, wanted) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_output_is_rounded_once_to_the_model_dtype(dtype, kernel_device):
    x, w = torch.randn(11, _K).to(dtype), _weights(dtype)
    got, wanted = _both(x, w, kernel_device, dtype=dtype)
    assert got.dtype == dtype
    assert float((got != wanted).float().mean()) < 0.01  # only sums that fall next to a tie


_W_SCALES = {
    "none": (None, None),
    "tensor": ((_E,), (None, None)),
    "channel": ((_E, _N), (1, None)),
    "block": ((_E, 2, 2), (128, 128)),
}
_PAIRS = [("fp8", 128), ("fp8", None), ("int8", None), ("int8", 128), ("bf16", None)]


@pytest.mark.parametrize("w_scale", list(_W_SCALES))
@pytest.mark.parametrize(("kind", "group"), _PAIRS)
def test_every_pair_of_scales(kind, group, w_scale, kernel_device):
    x = torch.randn(11, _K).bfloat16()
    codes, x_scale = (
        (x, None) if kind == "bf16" else quantize_rows(x.to(kernel_device), kind, group)
    )
    w = _weights(torch.int8 if kind == "int8" else torch.float8_e4m3fn)
    shape, block = _W_SCALES[w_scale]
    scale = None if shape is None else torch.rand(shape) + 0.1
    blocks = ((1, group), block)
    got, wanted = _both(codes, w, kernel_device, x_scale=x_scale, w_scale=scale, blocks=blocks)
    # An fp8 tensor core adds with about 14 bits; everything else here is float32 or exact.
    limit = 3e-4 if kind == "fp8" and kernel_device.type == "cuda" else 1e-6
    assert relative_rms(got, wanted) < limit


def test_one_scale_for_the_whole_tensor(kernel_device):
    x = (torch.randn(11, _K) * 50).to(torch.float8_e4m3fn)
    scale = torch.tensor(0.25)
    w = _weights(torch.float8_e4m3fn)
    got, wanted = _both(x, w, kernel_device, x_scale=scale, w_scale=torch.rand(_E))
    unscaled, _ = _both(x, w, kernel_device)
    assert relative_rms(got, wanted) < 3e-4
    assert relative_rms(got, unscaled) > 0.1


def test_the_second_product_takes_a_row_for_each_slot(kernel_device):
    x = torch.randn(22, _K).bfloat16()
    x[2:4] = float("nan")  # token 1 has no slot in use
    got, wanted = _both(x, _weights(torch.bfloat16), kernel_device)
    assert relative_rms(got, wanted) < 1e-6


@pytest.mark.parametrize("inner", [64, 72, 200])
def test_inner_sizes_that_no_step_divides(inner, kernel_device):
    """What lies beyond a row's last element is the next row's, and must not be seen."""
    x = torch.randn(11, inner).bfloat16()
    w = _weights(torch.bfloat16)[:, :, :inner].contiguous()
    w[:, 5, 0] = float("nan")
    tile = Tile(block_m=16, block_n=64, block_k=64, group_m=2, num_warps=4, num_stages=2)
    got, wanted = _both(x, w, kernel_device, tile=tile)
    others = torch.arange(_N) != 5
    assert bool(got[:, 5].isnan().all())
    assert relative_rms(got[:, others], wanted[:, others]) < 1e-6


@pytest.mark.parametrize("group_m", [1, 2, 3, 64])
def test_the_order_of_programs_changes_nothing(group_m, kernel_device):
    x, w = torch.randn(11, _K).bfloat16(), _weights(torch.bfloat16)
    tile = Tile(block_m=16, block_n=64, block_k=64, group_m=group_m, num_warps=4, num_stages=2)
    got, wanted = _both(x, w, kernel_device, tile=tile)
    assert relative_rms(got, wanted) < 1e-6


def test_a_nan_code_stays_a_nan(kernel_device):
    x = torch.ones(11, _K).to(torch.float8_e4m3fn)
    x.view(torch.uint8)[2, 5] = 0x7F
    got, wanted = _both(x, _weights(torch.float8_e4m3fn), kernel_device)
    assert torch.equal(got.isnan(), wanted.isnan())
    assert bool(wanted.isnan().any())


def _call(x, w, x_scale=None, w_scale=None, **options):
    ids = torch.zeros(len(x), 1, dtype=torch.int32)
    aligned = align_tokens(ids.to(x.device), len(w), 16)
    given = {"rows": len(x), "dtype": torch.float32} | options
    x, w = (_tensor(*part, x.device) for part in ((x, x_scale, (1, None)), (w, w_scale, (1, None))))
    grouped_gemm(x, w, aligned, **given)


def test_formats_that_do_not_go_together_are_named(kernel_device):
    x, w = torch.zeros(4, 128, device=kernel_device), torch.zeros(2, 64, 128)
    with pytest.raises(MoEError, match="rows of 128 elements do not fit weights of 64 inputs"):
        _call(x, torch.zeros(2, 64, 64))
    with pytest.raises(MoEError, match=r"cannot multiply torch.int8 rows by torch.float32 weights"):
        _call(x.to(torch.int8), w)
    with pytest.raises(MoEError, match=r"cannot multiply torch.int8 rows by torch.float8_e4m3fn"):
        _call(x.to(torch.int8), w.to(torch.float8_e4m3fn))
    with pytest.raises(MoEError, match="6 output rows are not a multiple of 4 input rows"):
        _call(x, w, rows=6)
    with pytest.raises(MoEError, match=r"scales of shape \(3,\) of \(4, 128\) codes"):
        _call(x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn), x_scale=torch.ones(3))
    with pytest.raises(MoEError, match=r"scales of shape \(2, 3\) of \(2, 64, 128\) codes"):
        _call(x, w.to(torch.float8_e4m3fn), w_scale=torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_bias_of_the_expert_is_added_before_the_only_rounding(dtype, kernel_device):
    bias = torch.randn(_E, _N, device=kernel_device).to(dtype)
    x, w = torch.randn(11, _K).bfloat16(), _weights(torch.bfloat16)
    got, wanted = _both(x, w, kernel_device, bias=bias, dtype=dtype)
    plain, _ = _both(x, w, kernel_device, dtype=dtype)
    assert relative_rms(got, wanted) < (2e-3 if dtype is torch.bfloat16 else 1e-6)
    assert relative_rms(plain, wanted) > 0.1


def test_a_bias_of_another_shape_is_named(kernel_device):
    bias = torch.zeros(_E, _N + 1, device=kernel_device)
    with pytest.raises(MoEError, match=r"bias is \[3, 201\]; weights \[3, 200, 256\] need one"):
        _both(torch.randn(11, _K), _weights(torch.float32), kernel_device, bias=bias)
