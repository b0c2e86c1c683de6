"""Each row of the table of formats has quantizers of matrices and of experts that agree to the bit.

A new row is tested as it is: sizes follow from its block and its packing.
"""

from __future__ import annotations

import pytest
import torch

from moe.formats import FORMATS
from moe.formats.quant_tensor import dequantize
from moe.kernels.quantize_weights import (
    moe_quantize_weights,
    moe_quantize_weights_2d,
    moe_quantize_weights_2d_torch,
    moe_quantize_weights_torch,
)
from moe.reference import formats as reference

ROWS = [fmt for fmt in FORMATS if fmt.block is not None]
NAMES = ("codes", "scale", "global_scale", "zero_point")


def experts_of(fmt, dtype):
    """Return [4, R, C]: the last block is short, and C is odd if a byte has one code.

    An expert of zeros, one from subnormal to huge values with ties, one whose first value is 1000
    times the others, and one of ones.
    """
    down, across = (side or 0 for side in fmt.block)
    rows, columns = max(5, down + 3), (across or 40) + (2 if fmt.packing > 1 else 3)
    torch.manual_seed(0)
    w = torch.randn(4, rows, columns)
    w[0], w[3] = 0.0, 1.0
    w[0, :, ::2] = -0.0
    w[1] *= torch.exp2(torch.randint(-30, 12, (rows, 1)).float())
    w[1, 1] = (torch.arange(columns) - columns // 2) / 2
    w[1, 2] *= 2.0**-130 if dtype == torch.float32 else 1.0  # the interpreter reads bf16's as 0
    w[2, 0, 0] = 1000 * w[2].abs().amax()
    return w.to(dtype)


def same(a, b):
    pairs = [(getattr(a, name), getattr(b, name)) for name in NAMES]
    assert a.format == b.format
    return all(
        p is q
        or (p.shape == q.shape and torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (p, q))))
        for p, q in pairs
    )


@pytest.mark.parametrize("fmt", ROWS, ids=lambda fmt: fmt.name)
def test_matrices_and_experts_have_the_same_bits_by_kernel_and_twin(fmt, kernel_device):
    is_small = (fmt.block[0] or 1) == 1
    for dtype in (torch.float32, torch.bfloat16) if is_small else (torch.float32,):
        w = experts_of(fmt, dtype).to(kernel_device)
        made, twin = moe_quantize_weights(w, fmt), moe_quantize_weights_torch(w, fmt)
        made.check()
        assert same(made, twin)
        assert same(moe_quantize_weights_2d(w[1], fmt), twin.expert(1))
        values = dequantize(twin)
        for e in range(len(w)):
            assert same(moe_quantize_weights_2d_torch(w[e], fmt), twin.expert(e))
            assert torch.equal(values[e], reference.weight_values(w[e].float(), fmt))
        assert not bool(values[0].any())


@pytest.mark.parametrize("fmt", ROWS, ids=lambda fmt: fmt.name)
def test_a_nan_is_in_all_values_that_share_its_scale_and_nowhere_else(fmt, kernel_device):
    w = experts_of(fmt, torch.float32).to(kernel_device)
    w[2, 1, 2] = torch.nan
    made, twin = moe_quantize_weights(w, fmt), moe_quantize_weights_torch(w, fmt)
    for tensor in (made, twin):
        isnan = dequantize(tensor).isnan()
        down, across = (None, None) if fmt.global_scale else fmt.block
        rows = slice(None) if down is None else slice(1 // down * down, 1 // down * down + down)
        assert bool(isnan[2, rows, :across].all())
        assert int(isnan.sum()) == isnan[2, rows, :across].numel()


@pytest.mark.parametrize("fmt", ROWS, ids=lambda fmt: fmt.name)
def test_what_is_beyond_the_largest_code_saturates(fmt):
    """What a scale can be too small for: OCP's floor, half a step more than int4 has, or static."""
    x = torch.tensor([-1e30, -1.2 * fmt.peak, 1.2 * fmt.peak, 1e30])
    codes = fmt.codec.encode(x.repeat(4)[None])
    values = fmt.codec.decode(codes)[0, :4].tolist()
    assert values == [fmt.lowest, fmt.lowest, fmt.top, fmt.top]
