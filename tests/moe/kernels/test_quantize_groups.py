"""Quantizers by groups: kernel, twin and the reference give the same bits."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.quant_tensor import dequantize
from moe.kernels.quantize_groups import (
    global_scale,
    quantize_groups,
    quantize_groups_torch,
)
from moe.reference import formats as reference

NAMES = ["mxfp8", "mxfp4", "nvfp4", "int4_g32", "int4_zp_g64", "int8_g128", "int8_zp_g32"]


def values(rows=5, columns=256):
    """Rows from tiny to huge, with a group of zeros, zeros of both signs and subnormal values."""
    torch.manual_seed(0)
    x = torch.randn(rows, columns) * torch.exp2(torch.randn(rows, 1) * 8)
    x[0, :128] = 0
    x[0, 1:128:2] = -0.0
    x[1, :32] = 1e-40 * torch.randn(32)
    x[2, 7] = 1000 * x[2].abs().amax()
    x[3] = x[3].abs()
    return x


def total_of(x, fmt):
    return global_scale(x.abs().amax(), fmt) if fmt.global_scale else None


def same_bits(a, b):
    pairs = [(a.codes, b.codes), (a.scale, b.scale), (a.zero_point, b.zero_point)]
    return all(
        p is q or torch.equal(*(t.contiguous().view(torch.uint8) for t in (p, q))) for p, q in pairs
    )


@pytest.mark.parametrize("columns", [256, 250, 30])
@pytest.mark.parametrize("name", NAMES)
def test_kernel_and_twin_have_the_same_bits(name, columns):
    fmt, x = FORMATS[name], values(columns=256)[:, :columns]
    small = x.abs() < 2.0**-120  # Triton's interpreter reads subnormal bf16 as zeros
    for t in (x, torch.where(small, 0.0, x).bfloat16(), x.contiguous()):
        total = total_of(t, fmt)
        assert same_bits(quantize_groups(t, fmt, total), quantize_groups_torch(t, fmt, total))


@pytest.mark.parametrize("name", NAMES)
def test_codes_stand_for_the_values_of_the_reference(name):
    fmt, x = FORMATS[name], values()
    found_values = dequantize(quantize_groups_torch(x, fmt, total_of(x, fmt)))
    assert torch.equal(found_values, reference.weight_values(x, fmt))


@pytest.mark.parametrize("name", NAMES)
def test_each_matrix_is_quantized_as_if_it_were_alone(name):
    fmt = FORMATS[name]
    x = torch.stack([values(), 7 * values().flip(0), torch.zeros(5, 256)])
    total = global_scale(x.abs().amax(dim=(1, 2)), fmt) if fmt.global_scale else None
    together = quantize_groups(x, fmt, total)
    assert same_bits(together, quantize_groups_torch(x, fmt, total))
    for e in range(3):
        alone = quantize_groups(x[e], fmt, None if total is None else total[e])
        assert same_bits(together.expert(e), alone)
    assert float(dequantize(together.expert(2)).abs().max()) == 0, "zeros stay zeros"


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4", "nvfp4"])
def test_a_nan_is_carried_by_the_scale_of_its_group(name):
    fmt, x = FORMATS[name], torch.ones(2, 64)
    x[1, 33] = torch.nan
    total = torch.tensor(1.0) if fmt.global_scale else None
    for run in (quantize_groups, quantize_groups_torch):
        isnan = dequantize(run(x, fmt, total)).isnan()
        group = fmt.group
        assert isnan[1, 32 : 32 + min(group, 32)].all()
        assert not isnan[0].any()
        assert not isnan[1, :32].any()


def test_what_is_beyond_the_largest_code_saturates():
    """By OCP's rule 7.9 has the scale 1, and the largest code is 6."""
    x = torch.zeros(1, 32)
    x[0, :3] = torch.tensor([7.9, -7.9, 5.1])
    for run in (quantize_groups, quantize_groups_torch):
        assert dequantize(run(x, FORMATS["mxfp4"]))[0, :3].tolist() == [6, -6, 6]
        rounded_up = dequantize(run(x, FORMATS["mxfp8"]))[0, :3]
        assert rounded_up.abs().max() >= 7.5, "rounded up, nothing saturates"


@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (0, 8, 64)])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_quantized_to_nothing(name, shape):
    fmt = FORMATS[name]
    total = torch.tensor(1.0) if fmt.global_scale else None
    for run in (quantize_groups, quantize_groups_torch):
        tensor = run(torch.zeros(shape), fmt, total)
        assert tensor.shape == shape
        assert tensor.scale.shape == (*shape[:-1], -(-shape[-1] // fmt.group))


@pytest.mark.parametrize(
    ("name", "columns", "total", "text"),
    [
        ("fp8_block", 64, None, "format 'fp8_block' has blocks of .* not groups of a row's"),
        ("mxfp4", 33, None, "rows of 33 columns do not fill bytes of 2 mxfp4 codes: pad the"),
        ("nvfp4", 32, None, "format 'nvfp4' needs a global scale: pass `total`, 448 . 6 / amax"),
        ("mxfp4", 32, torch.ones(()), "format 'mxfp4' has no global scale"),
        (
            "nvfp4",
            32,
            torch.ones(3),
            r"the global scale has shape \[3\] of torch.float32; pass one float32 number",
        ),
    ],
)
def test_bad_input_says_what_to_pass(name, columns, total, text):
    for run in (quantize_groups, quantize_groups_torch):
        with pytest.raises(MoEError, match=text):
            run(torch.ones(2, columns), FORMATS[name], total)


class NoScalarDivision(TorchDispatchMode):
    """Fails where a float tensor is divided by a number: a GPU multiplies by its reciprocal.

    That of a power of two is exact.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.div and args[0].is_floating_point():
            is_exact = isinstance(args[1], torch.Tensor) or math.frexp(args[1])[0] == 0.5
            assert is_exact, f"divided by the number {args[1]}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [row.name for row in FORMATS if row.block is not None])
def test_scales_are_divided_in_a_way_that_a_gpu_rounds_once(name):
    fmt, x = FORMATS[name], torch.randn(256, 256)
    with NoScalarDivision():
        reference.weight_values(x, fmt)
        if fmt.group is not None and (fmt.packing > 1 or fmt.group < 128):
            quantize_groups_torch(x, fmt, total_of(x, fmt))


def test_division_by_a_number_is_seen():
    with pytest.raises(AssertionError, match=r"divided by the number 7\.0"), NoScalarDivision():
        _ = torch.ones(2) / 7.0
