"""Interpreted kernels of packages compute with bfloat16 as torch does; without it they do not."""

import pytest
import torch
import triton
import triton.language as tl

from moe.kernels.interpreter_bf16 import chip_arithmetic
from moe.kernels.launch import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="kernels are compiled in this process")


@triton.jit
def _arithmetic(x_ptr, y_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    x, y = tl.load(x_ptr + at), tl.load(y_ptr + at)
    tl.store(out_ptr + at, tl.where(x > y, x * y - x, -x))


@triton.jit
def _product(x_ptr, y_ptr, out_ptr, SIZE: tl.constexpr):
    row, column = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    x, y = tl.load(x_ptr + row * SIZE + column), tl.load(y_ptr + row * SIZE + column)
    tl.store(out_ptr + row * SIZE + column, tl.dot(x, y))


@triton.jit
def _cast(x_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out_ptr + at, tl.load(x_ptr + at).to(out_ptr.dtype.element_ty))


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def arithmetic():
    x, y = drawn(2, 256).bfloat16()
    out = torch.empty(256, dtype=torch.bfloat16)
    _arithmetic[(1,)](x, y, out, SIZE=256)
    return out, torch.where(x > y, x * y - x, -x)


def product():
    x, y = drawn(2, 16, 16).bfloat16()
    out = torch.empty(16, 16)
    _product[(1,)](x, y, out, SIZE=16)
    return out, x.float() @ y.float()


def cast(dtype):
    x = drawn(4096) * 8
    out = torch.empty(4096, dtype=dtype)
    _cast[(1,)](x, out, SIZE=4096)
    return out.float(), x.to(dtype).float()


CASTS = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
COMPUTED = [arithmetic, product, *(lambda dtype=dtype: cast(dtype) for dtype in CASTS)]


@pytest.mark.parametrize("computed", COMPUTED)
def test_it_is_what_torch_computes(computed):
    with chip_arithmetic():
        torch.testing.assert_close(*computed(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("computed", [arithmetic, product, COMPUTED[2], COMPUTED[4]])
def test_the_interpreter_alone_computes_something_else(computed):
    """Once this passes no more, Triton was mended, and `chip_arithmetic` may go."""
    got, wanted = computed()
    assert not torch.allclose(got.float(), wanted.float(), rtol=1e-6)


def test_numbers_too_large_for_fp8_become_its_largest_and_nan_stays():
    x = torch.tensor([1e9, -1e9, float("inf"), float("nan")])
    out = torch.empty(4, dtype=torch.float8_e4m3fn)
    with chip_arithmetic():
        _cast[(1,)](x, out, SIZE=4)
    assert out.float().tolist()[:3] == [448.0, -448.0, 448.0]
    assert out.float()[3].isnan()
