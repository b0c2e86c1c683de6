"""The batched GEMM against its float64 twin; what lies beyond a count reaches nothing."""

import dataclasses

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor
from moe.kernels.batched_gemm import batched_gemm, batched_gemm_torch
from moe.kernels.quantize import quantize_rows
from moe.kernels.tiles import Tile
from tests.moe.kernels.kernel_cases import relative_rms

_E, _C, _K, _N = 4, 21, 256, 200
_COUNTS = (21, 0, 1, 17)
SMALL = Tile(block_m=16, block_n=32, block_k=128, group_m=1, num_warps=4, num_stages=1)


def used_rows(device):
    counts = torch.tensor(_COUNTS, dtype=torch.int32, device=device)
    return counts, torch.arange(_C, device=device)[None, :] < counts[:, None]


def operands(kind, group, block, device):
    """Rows with NaN, or scales of NaN, beyond the counts; and weights."""
    torch.manual_seed(0)
    counts, used = used_rows(device)
    x = torch.randn(_E, _C, _K, device=device).bfloat16()
    x[~used] = torch.nan
    w = torch.randn(_E, _N, _K, device=device) / 16
    if kind == "bf16":
        return QuantTensor(codes=x), QuantTensor(codes=w.bfloat16()), counts
    codes, scale = quantize_rows(x.flatten(0, 1), kind, group)
    fmt = dataclasses.replace(
        FORMATS["int8_token" if kind == "int8" else "fp8_group"], name="tested", block=(1, group)
    )
    rows = QuantTensor(codes=codes.view(x.shape), scale=scale.view(_E, _C, -1), format=fmt)
    w_codes = (w * 400).clamp(-127, 127).to(codes.dtype)
    shape = {(1, None): (_E, _N), (128, 128): (_E, 2, 2), (None, None): (_E,)}[block]
    w_scale = (torch.rand(shape) + 0.1).to(device)
    w_fmt = dataclasses.replace(fmt, name="weights", block=block)
    return rows, QuantTensor(codes=w_codes, scale=w_scale, format=w_fmt), counts


def both(x, w, counts, dtype=torch.float32, tile=None):
    with guarded_buffers.poisoned():
        got = batched_gemm(x, w, counts, dtype=dtype, tile=tile)
        assert guarded_buffers.broken_guards() == []
    _, used = used_rows(counts.device)
    assert bool(got[~used].isnan().all()), "a row beyond the count was written"
    return got[used], batched_gemm_torch(x, w, counts, dtype=dtype)[used]


@pytest.mark.parametrize("tile", [None, SMALL], ids=["one tile", "small tiles"])
@pytest.mark.parametrize(
    ("kind", "group", "block"),
    [
        ("bf16", None, (None, None)),
        ("fp8", 128, (128, 128)),
        ("fp8", None, (1, None)),
        ("int8", None, (1, None)),
        ("int8", 128, (128, 128)),
        ("fp8", 128, (None, None)),
    ],
)
def test_rows_in_use_are_multiplied_and_no_others(kind, group, block, tile, kernel_device):
    got, expected = both(*operands(kind, group, block, kernel_device), tile=tile)
    limit = 3e-4 if kind == "fp8" and kernel_device.type == "cuda" else 1e-6
    assert not bool(got.isnan().any())
    assert relative_rms(got, expected) < limit


def test_one_scale_for_all_rows(kernel_device):
    x, w, counts = operands("fp8", None, (None, None), kernel_device)
    fmt = dataclasses.replace(x.format, block=(None, None))
    codes = x.codes.view(torch.uint8).masked_fill(x.codes.isnan(), 0).view(x.codes.dtype)
    scale = torch.tensor(0.25, device=kernel_device)
    got, expected = both(QuantTensor(codes=codes, scale=scale, format=fmt), w, counts)
    assert relative_rms(got, expected) < 3e-4
    doubled = QuantTensor(codes=codes, scale=2 * scale, format=fmt)
    assert relative_rms(both(doubled, w, counts)[0], 2 * got) < 1e-6


def test_the_output_is_rounded_once(kernel_device):
    x, w, counts = operands("bf16", None, (None, None), kernel_device)
    got, expected = both(x, w, counts, dtype=torch.bfloat16)
    assert got.dtype == torch.bfloat16
    assert float((got != expected).float().mean()) < 0.01


@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8)])
def test_no_experts_and_no_room(shape, kernel_device):
    x = QuantTensor(codes=torch.ones(shape, device=kernel_device))
    w = QuantTensor(codes=torch.ones(shape[0], 6, 8, device=kernel_device))
    counts = torch.zeros(shape[0], dtype=torch.int32, device=kernel_device)
    assert batched_gemm(x, w, counts, dtype=torch.float32).shape == (*shape[:2], 6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"w": torch.ones(2, 6, 9)}, r"batched rows \[2, 4, 8\] do not fit weights \[2, 6, 9\]"),
        ({"w": torch.ones(3, 6, 8)}, r"batched rows \[2, 4, 8\] do not fit weights \[3, 6, 8\]"),
        ({"x": torch.ones(8, 8)}, r"batched rows \[8, 8\] do not fit weights"),
        ({"counts": torch.ones(2)}, r"counts are \[2\] of torch.float32; there must be one int32"),
        ({"counts": torch.ones(1, dtype=torch.int32)}, r"counts are \[1\] of torch.int32"),
        ({"x": torch.ones(2, 4, 8, dtype=torch.int8)}, "cannot multiply torch.int8 rows"),
    ],
)
def test_operands_that_do_not_fit_are_named(change, text):
    given = {"x": torch.ones(2, 4, 8), "w": torch.ones(2, 6, 8)}
    given |= {"counts": torch.ones(2, dtype=torch.int32)} | change
    x, w = QuantTensor(codes=given["x"]), QuantTensor(codes=given["w"])
    for function in (batched_gemm, batched_gemm_torch):
        with pytest.raises(MoEError, match=text):
            function(x, w, given["counts"], dtype=torch.float32)


def test_the_bias_of_the_expert_is_added_before_the_only_rounding(kernel_device):
    x, w, counts = operands("bf16", None, (None, None), kernel_device)
    bias = torch.randn(w.codes.shape[:2], device=kernel_device).bfloat16()
    got = batched_gemm(x, w, counts, dtype=torch.float32, bias=bias)
    plain = batched_gemm(x, w, counts, dtype=torch.float32)
    twin = batched_gemm_torch(x, w, counts, dtype=torch.float32, bias=bias)
    _, used = used_rows(counts.device)
    assert relative_rms(got[used], twin[used]) < 1e-6
    wanted = (plain + bias[:, None].float())[used]
    assert relative_rms(got[used], wanted) < 1e-6
    with pytest.raises(MoEError, match="need one value for each of their rows"):
        batched_gemm(x, w, counts, dtype=torch.float32, bias=bias[:, 1:])
