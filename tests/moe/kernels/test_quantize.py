"""Quantizers against their twins, bit by bit, and the twins against the rule they state."""

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels.quantize import (
    MAX,
    quantize_rows,
    quantize_rows_torch,
    quantize_tensor,
    quantize_tensor_torch,
    tensor_scale,
    tensor_scale_torch,
)
from tests.moe.kernels.kernel_cases import same


def _rows(rows, columns, dtype, device):
    torch.manual_seed(rows + columns)
    x = torch.randn(rows, columns) * torch.exp2(torch.randint(-20, 12, (rows, 1)).float())
    x[0] = 0.0
    if rows > 2:
        x[2, columns // 2] = float("nan")
    return x.to(dtype).to(device)


@pytest.mark.parametrize("kind", ["fp8", "fp8_fnuz", "int8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("rows", "columns", "group"), [(33, 256, 128), (5, 200, 128), (7, 72, None)]
)
def test_rows_have_the_bits_of_the_twin(kind, dtype, rows, columns, group, kernel_device):
    x = _rows(rows, columns, dtype, kernel_device)
    codes, scale = quantize_rows(x, kind, group)
    wanted_codes, wanted_scale = quantize_rows_torch(x, kind, group)
    assert same(scale, wanted_scale)
    assert same(codes, wanted_codes)


@pytest.mark.parametrize("kind", ["fp8", "fp8_fnuz", "int8"])
def test_the_tensor_has_the_bits_of_the_twin(kind, kernel_device):
    x = _rows(65, 130, torch.bfloat16, kernel_device)
    scale = torch.tensor(0.37, device=kernel_device)
    assert same(quantize_tensor(x, scale, kind), quantize_tensor_torch(x, scale, kind))


@pytest.mark.parametrize("kind", ["fp8", "fp8_fnuz", "int8"])
def test_the_scale_is_one_float32_product_and_the_largest_value_gets_the_largest_code(
    kind, kernel_device
):
    x = _rows(2, 256, torch.float32, kernel_device)
    codes, scale = quantize_rows_torch(x, kind, 128)
    reciprocal = torch.tensor(1.0 / MAX[kind])
    assert same(scale[1], x[1].view(2, 128).abs().amax(1) * reciprocal)
    assert float(codes[1].float().abs().max()) == MAX[kind]
    assert scale[0].tolist() == [1.0, 1.0]  # a row of zeros
    assert (
        codes[1].float() * scale[1].repeat_interleave(128) - x[1]
    ).abs().max() < 0.08 * x.abs().max()


def test_codes_come_from_a_division_not_from_a_reciprocal(kernel_device):
    """Values next to a tie, where `x / scale` and `x * (1 / scale)` round to different codes."""
    scale = torch.tensor(3.3, device=kernel_device)
    middle = (torch.arange(0, 126, device=kernel_device) + 0.5) * scale
    up, down = torch.nextafter(middle, middle + 1), torch.nextafter(middle, middle - 1)
    x = torch.cat([middle, up, down])[None]
    wanted = (x / scale).round().to(torch.int8)
    assert not same((x * (1 / scale)).round().to(torch.int8), wanted)
    assert same(quantize_tensor(x, scale, "int8"), wanted)


def test_a_nan_shows_in_its_scale_and_nowhere_else(kernel_device):
    x = _rows(4, 256, torch.bfloat16, kernel_device)
    for kind in MAX:
        codes, scale = quantize_rows(x, kind, 128)
        assert scale.isnan().nonzero().tolist() == [[2, 1]]
        values = codes.float() * scale.repeat_interleave(128, dim=1)
        assert bool(values[2, 128:].isnan().all())
        assert not bool(values[:2].isnan().any())


@pytest.mark.parametrize(("rows", "columns"), [(1, 100), (300, 100), (4, 5000)])
def test_a_dynamic_scale_sees_only_rows_in_use(rows, columns, kernel_device):
    x = torch.randn(rows, columns, device=kernel_device).bfloat16()
    x[-1, -1] = 9.0
    ids = torch.arange(rows, device=kernel_device).int()
    ids[::2] = -1
    x[::2] = float("nan")
    scale = tensor_scale(x, ids, "fp8")
    assert same(scale, tensor_scale_torch(x, ids, "fp8"))
    wanted = x[1::2].abs().amax().float() / 448 if rows > 1 else torch.ones((), device=x.device)
    assert float(scale) == pytest.approx(float(wanted), rel=1e-6)


def test_a_nan_in_use_makes_the_dynamic_scale_nan(kernel_device):
    x = torch.randn(8, 16, device=kernel_device)
    x[5, 3] = float("nan")
    assert bool(tensor_scale(x, torch.zeros(8, dtype=torch.int32, device=x.device), "fp8").isnan())


@pytest.mark.parametrize("shape", [(0, 128), (0, 0)])
def test_no_rows_are_no_work(shape, kernel_device):
    x = torch.empty(shape, dtype=torch.bfloat16, device=kernel_device)
    for do in (quantize_rows, quantize_rows_torch):
        codes, scale = do(x, "fp8", 128)
        assert tuple(codes.shape) == shape
        assert tuple(scale.shape) == (0, shape[1] // 128)
    assert quantize_tensor(x, torch.ones((), device=x.device), "int8").shape == x.shape
    assert float(tensor_scale(x, torch.empty(0, dtype=torch.int32, device=x.device), "fp8")) == 1.0


def test_nothing_is_left_unwritten_or_written_beyond(kernel_device):
    x = torch.randn(13, 200, device=kernel_device)
    with guarded_buffers.poisoned():
        _, scale = quantize_rows(x, "fp8", 128)
        codes = quantize_tensor(x, torch.ones((), device=x.device), "fp8")
        total = tensor_scale(x, torch.zeros(13, dtype=torch.int32, device=x.device), "fp8")
        assert guarded_buffers.broken_guards() == []
    assert not bool(scale.isnan().any() or codes.float().isnan().any() or total.isnan())


@pytest.mark.parametrize("do", [quantize_rows, quantize_rows_torch])
def test_an_unknown_kind_is_named(do):
    with pytest.raises(MoEError, match=r"kind must be one of fp8, fp8_fnuz, int8, not 'fp4'"):
        do(torch.zeros(1, 128), "fp4", 128)
