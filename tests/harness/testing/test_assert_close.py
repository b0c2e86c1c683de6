"""`harness.assert_close`: right outputs pass whatever their scale, wrong ones say what is wrong."""

from __future__ import annotations

import math

import pytest
import torch

import harness
from harness import assert_close
from tests.harness.testing.samples import EXPECTED, PRODUCT, RIGHT, W, X, refused


def test_the_public_name_stays_the_function():
    assert harness.assert_close is assert_close
    assert callable(harness.assert_close)


WIDE = [(d, s) for d in (torch.bfloat16, torch.float32) for s in (1.0, 2.0**-100, 2.0**100)]
NARROW = [(d, 1.0) for d in (torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)]


@pytest.mark.parametrize(("dtype", "scale"), WIDE + NARROW)
def test_rounded_outputs_pass_at_any_scale_that_the_dtype_holds(dtype, scale):
    assert_close((EXPECTED * scale).to(dtype), EXPECTED * scale)
    assert_close((EXPECTED * scale).to(dtype), EXPECTED.double() * scale)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 1), (2, 3, 8), (5, 2)])
def test_small_and_odd_shapes_raise_no_false_alarm(shape):
    for seed in range(300):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        assert_close(x.bfloat16(), x)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1000))
        assert_close(x * (1 + 0.01 * noise), x, noise=0.01)


WRONG = {
    "zeros": torch.zeros_like,
    "halved": lambda x: x * 0.5,
    "doubled": lambda x: x * 2,
    "negated": lambda x: -x,
    "rolled": lambda x: x.roll(1, dims=0),
    "two rows swapped": lambda x: torch.cat([x[1:2], x[:1], x[2:]]),
    "last block zeroed": lambda x: torch.cat([x[:, :-128], 0 * x[:, -128:]], dim=1),
    "one per cent too large": lambda x: x * 1.01,
    "one element off by a tenth of its row's rms": lambda x: x + 0.1 * torch.eye(*x.shape),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("scale", [1.0, 2.0**-90])
def test_wrong_outputs_fail_at_any_scale(name, scale):
    refused(WRONG[name](EXPECTED * scale).bfloat16(), EXPECTED * scale)


def test_the_message_has_both_values_shares_and_the_pattern():
    wrong = RIGHT.clone()
    wrong[:, 256:] *= 1.5
    lines = refused(wrong, name="gemm1").splitlines()
    assert lines[0] == "gemm1: 40 of 40 rows, 256 of 512 columns (256-511)"
    first, worst, values, errors, *patterns = lines[1:]
    assert first.startswith("  first wrong element [0, 25")
    assert "x its row's rms" in worst
    assert values.startswith("  values ")
    assert "; NaN 0, Inf 0" in values
    assert errors.startswith("  relative rms error 0.3")
    assert "1-cosine" in errors
    assert "  pattern: columns >= 256 only" in patterns
    assert patterns[-1].startswith("  tolerance: a relative rms error of 0.0")
    assert patterns[-1].endswith("rounding to bfloat16, no sum (set terms=...)")


def test_a_single_element_is_found_in_a_row_within_its_bound():
    wrong = RIGHT.float()
    wrong[3, 5] += 0.05 * float(EXPECTED[3].square().mean().sqrt())
    text = refused(wrong.bfloat16())
    assert text.startswith("output: 1 of 40 rows (3), 1 of 512 columns (5)\n")
    assert "beyond" not in text


def test_nan_inf_zero_and_unwritten_rows_are_told():
    wrong = RIGHT.clone()
    wrong[2, 7] = float("inf")
    wrong[9] = float("nan")
    wrong[11] = 0
    text = refused(wrong)
    assert "NaN 512, Inf 1" in text
    assert "all zero: rows 11" in text
    assert "all NaN (never written, or computed from NaN): rows 9" in text
    assert "first wrong element [2, 7] is inf, expected" in text


def test_values_that_print_alike_get_more_digits():
    text = refused(EXPECTED.double() * (1 + 1e-9), EXPECTED.double())
    (line,) = (line for line in text.splitlines() if "worst wrong element" in line)
    got, expected = line.split(" is ")[1].split(", off")[0].split(", expected ")
    assert got != expected


def summed(dtype: torch.dtype) -> torch.Tensor:
    """One product after another, the sum kept in `dtype`."""
    total = torch.zeros(16, 96, dtype=dtype)
    for i in range(1024):
        total = (total + (X[:, i : i + 1] * W[i]).to(dtype)).to(dtype)
    return total


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("f32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_declared_sums_pass_and_undeclared_ones_do_not(name, dtype):
    total = summed(dtype)
    assert_close(total, PRODUCT, terms=1024, accumulate=name)
    assert "no sum (set terms=...)" in refused(total, PRODUCT)
    if name != "f32":
        refused(total, PRODUCT, terms=1024)


def test_the_bound_of_a_sum_is_not_far_above_what_real_sums_need():
    for name, dtype, bits in (("f32", torch.float32, 24), ("bf16", torch.bfloat16, 8)):
        off = float((summed(dtype).double() - PRODUCT).norm() / PRODUCT.norm())
        declared = 2.0**-bits * math.sqrt(1024)
        assert declared / 8 < off < declared, name


def test_noise_and_rel_rms_are_the_callers():
    generator = torch.Generator().manual_seed(4)
    noisy = EXPECTED * (1 + 0.01 * torch.randn(EXPECTED.shape, generator=generator))
    refused(noisy)
    assert_close(noisy, EXPECTED, noise=0.01)
    assert_close(noisy, EXPECTED, rel_rms=0.02)
    refused(noisy, rel_rms=0.005)


def test_rows_of_zeros_must_be_matched_exactly():
    expected = EXPECTED.clone()
    expected[4] = 0
    assert_close(expected.bfloat16(), expected)
    assert_close(torch.zeros(3, 4), torch.zeros(3, 4))
    wrong = expected.bfloat16()
    wrong[4, 100] = 1e-9
    assert "1 of 40 rows (4), 1 of 512 columns (100)" in refused(wrong, expected)


def test_no_elements_pass():
    assert_close(RIGHT[:0], EXPECTED[:0])
    assert_close(RIGHT[:, :0], EXPECTED[:, :0])
    assert_close(torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.int32))


def test_integers_and_bools_must_be_equal():
    ids = torch.arange(12).view(3, 4)
    assert_close(ids.int(), ids)
    wrong = ids.clone()
    wrong[1, 2:] = 0
    text = refused(wrong, ids, name="topk_ids")
    assert text == "topk_ids: 2 of 12 elements differ, first at [1, 2]: 0, expected 6"
    mask = ids > 5
    assert_close(mask, mask.clone())
    assert "6 of 12" not in refused(~mask, mask)
    assert refused(torch.tensor(3), torch.tensor(4)).endswith("first at []: 3, expected 4")


BAD = [
    (
        RIGHT[1:],
        EXPECTED,
        {},
        ValueError,
        r"\[39, 512\], expected \[40, 512\]: .*nothing is broadcast",
    ),
    (RIGHT.int(), EXPECTED, {}, TypeError, "int32, expected torch.float32: a float and an integer"),
    (RIGHT, EXPECTED.numpy(), {}, TypeError, "expected is ndarray; pass a torch.Tensor"),
    (RIGHT, EXPECTED * float("nan"), {}, ValueError, "expected holds NaN or Inf"),
    (RIGHT.to("meta"), EXPECTED, {}, ValueError, "actual on meta, expected on cpu: move them"),
    (RIGHT.to(torch.complex64), EXPECTED, {}, TypeError, "complex64; compare its real parts"),
    (RIGHT, EXPECTED, {"terms": 0}, ValueError, "terms is 0; .* at least 1"),
    (RIGHT, EXPECTED, {"accumulate": "f16"}, ValueError, "'f16'; it must be one of f32, bf16"),
    (RIGHT, EXPECTED, {"noise": 1.0}, ValueError, "noise is 1.0; it is relative"),
    (RIGHT, EXPECTED, {"rel_rms": 1.0}, ValueError, "from 1 on zeros would pass"),
    (
        RIGHT,
        EXPECTED,
        {"terms": 2**20, "accumulate": "bf16"},
        ValueError,
        "in 40 of 40 rows .* zeros would pass; declare fewer terms",
    ),
]


@pytest.mark.parametrize(("actual", "expected", "options", "kind", "text"), BAD)
def test_bad_input_is_the_callers_error(actual, expected, options, kind, text):
    with pytest.raises(kind, match=text):
        assert_close(actual, expected, **options)


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e160, 1e300])
def test_values_whose_squares_float64_does_not_hold_are_refused_not_judged(size):
    x = EXPECTED.double() * size
    with pytest.raises(ValueError, match=r"squares of it leave float64 .* scale both sides"):
        assert_close(x, x)


@pytest.mark.parametrize("size", [1e-140, 1e-30, 1e30, 1e140])
def test_far_from_one_a_last_bit_passes_and_a_percent_does_not(size):
    x = EXPECTED.double() * size
    assert_close(x / 3 * 3, x)
    assert "relative rms error 0.01" in refused(x * 1.01, x)


@pytest.mark.parametrize("tiny", [1e-30, 1e-20, 1.0])
def test_what_should_be_zeros_is_told_without_ratios_to_nothing(tiny):
    expected = EXPECTED.clone()
    expected[7] = 0
    actual = expected.clone()
    actual[7, 3] = tiny
    text = refused(actual, expected)
    assert "worst row 7: expected all zeros; element [7, 3]" in text
    assert "row's rms" not in text
    text = refused(actual[7:8], expected[7:8])
    assert "tolerance: exact zeros, as all expected values are zero" in text
    assert "would pass" not in text


def test_tensors_without_dense_values_are_refused():
    with pytest.raises(TypeError, match=r"actual is a torch.sparse_coo tensor; pass a dense"):
        assert_close(EXPECTED.to_sparse(), EXPECTED)
    nowhere = EXPECTED.to("meta")
    with pytest.raises(ValueError, match="both are on meta, which holds no values"):
        assert_close(nowhere, nowhere)


def test_unsigned_integers_compare_with_others():
    numbers = torch.arange(5)
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        assert_close(numbers.to(dtype), numbers)
        assert "1 of 5 elements differ, first at [4]: 4, expected 5" in refused(
            numbers.to(dtype), torch.tensor([0, 1, 2, 3, 5])
        )
    huge = torch.tensor([-1]).view(torch.uint64)
    with pytest.raises(TypeError, match=r"integers >= 2\*\*63 cannot"):
        assert_close(huge, huge)
