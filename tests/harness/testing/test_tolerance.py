"""The tolerance: a wrong rounding is seen, and a right one never raises an alarm."""

from __future__ import annotations

import pytest
import torch

from harness import assert_close
from harness.checks.output import ROW_FACTOR
from harness.testing.declared_noise import declared
from harness.testing.tolerance import as_pair, one_sided, reference_with_tolerance, wrong_elements
from tests.harness.testing.samples import EXPECTED, PRODUCT, W, X, refused

COARSE = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
FINE = (torch.float32, torch.float64)


def steps(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Distance between neighbours of a normal value."""
    _, exponent = torch.frexp(x)
    return torch.ldexp(torch.full_like(x, torch.finfo(dtype).eps), exponent - 1)


def truncated(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    step = steps(x, dtype)
    return (torch.trunc(x / step) * step).to(dtype)


def away(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    step = steps(x, dtype)
    return (torch.ceil(x.abs() / step) * step * x.sign()).to(dtype)


def floored(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    step = steps(x, dtype)
    return (torch.floor(x / step) * step).to(dtype)


def scaled(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """By three eighths of what the dtype's step is at 1: x1.003 in bf16."""
    return (x * (1 + 3 / 8 * torch.finfo(dtype).eps)).to(dtype)


def scaled_by_little(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A sixteenth of a step at 1: x1.0005 in bf16, well below what a row's rms shows."""
    return (x * (1 + torch.finfo(dtype).eps / 16)).to(dtype)


MISTAKES = (truncated, away, floored, scaled, scaled_by_little)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("dtype", COARSE)
@pytest.mark.parametrize("fine", FINE)
def test_a_wrong_rounding_is_seen_by_a_finer_expected(mistake, dtype, fine):
    normal = EXPECTED.sign() * (0.25 + EXPECTED.abs())
    assert_close(normal.to(dtype), normal.to(fine))
    refused(mistake(normal, dtype), normal.to(fine))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_rounding_is_seen_with_a_declared_sum(mistake):
    assert_close(PRODUCT.bfloat16(), PRODUCT, terms=1024)
    refused(mistake(PRODUCT, torch.bfloat16), PRODUCT, terms=1024)


@pytest.mark.parametrize("shape", [(8192, 1), (2048, 4), (1, 8192)])
def test_a_wrong_rounding_is_seen_in_short_rows(shape):
    expected = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for mistake in (truncated, away, floored, scaled):
        refused(mistake(expected, torch.bfloat16), expected)


def test_a_truncated_float32_is_seen_by_a_float64():
    expected = PRODUCT / 3
    assert_close(expected.float(), expected)
    refused(truncated(expected, torch.float32), expected)


def test_the_message_says_to_which_side_a_wrong_rounding_leans():
    text = refused(truncated(EXPECTED, torch.bfloat16))
    assert "elements are more than half a step off, 100% of them toward zero: truncation" in text
    assert "% of them away from zero: " in refused(away(EXPECTED, torch.bfloat16))
    assert "% of them down: " in refused(floored(EXPECTED, torch.bfloat16))
    assert "more than half a step" not in refused(EXPECTED.flip(0).bfloat16())


def test_one_element_has_a_step_not_two():
    wrong = EXPECTED.bfloat16().float()
    wrong[3, 5] += 1.6 * float(steps(EXPECTED[3, 5], torch.bfloat16))
    assert "1 of 40 rows (3), 1 of 512 columns (5)" in refused(wrong.bfloat16())


# What is right raises no alarm.

DRAWS = 200
SHAPES = ((), (1,), (3,), (2, 2), (5, 1), (4, 16), (3, 300))


def drawn(kind: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    if kind == "heavy tails":
        return x / torch.randn(shape, generator=g, dtype=torch.float64).abs().clamp(min=1e-3)
    if kind == "one dominant element":
        x = x / 1000
        x.view(-1)[0] = 1 + torch.rand((), generator=g, dtype=torch.float64)
        return x
    if kind == "one value":
        return torch.ones_like(x) * x.view(-1)[0]
    if kind == "ties":
        return (x * 2).round() + 0.5 * torch.finfo(torch.bfloat16).eps
    if kind == "below a power of two":
        return 1 - torch.rand(shape, generator=g, dtype=torch.float64) / 128
    return x


KINDS = ("normal", "heavy tails", "one dominant element", "one value", "ties")
KINDS = (*KINDS, "below a power of two")


@pytest.mark.parametrize("kind", KINDS)
def test_right_roundings_raise_no_alarm(kind):
    for seed in range(DRAWS):
        x = drawn(kind, SHAPES[seed % len(SHAPES)], seed).clamp(-400, 400)
        for dtype in (torch.bfloat16, torch.float16):
            assert_close(x.to(dtype), x)
            assert_close(x.float().to(dtype), x.float())
            assert_close(x.float(), x.to(dtype))
        assert_close(x.float(), x)
        assert_close(x.bfloat16(), x.to(torch.float16))


@pytest.mark.parametrize("kind", KINDS)
def test_right_roundings_of_sums_with_noise_raise_no_alarm(kind):
    for seed in range(DRAWS):
        x = drawn(kind, SHAPES[seed % len(SHAPES)], seed)
        g = torch.Generator().manual_seed(seed + 10_000)
        for noise in (2.0**-16, 0.002, 0.01):
            z = torch.randn(x.shape, generator=g, dtype=torch.float64)
            assert_close((x * (1 + noise * z)).bfloat16(), x, noise=noise)
            assert_close((x * (1 + noise * z)).bfloat16(), x.bfloat16(), noise=noise)
            even = x + noise * x.square().mean().sqrt() * z
            if x.dim() < 2:
                assert_close(even.bfloat16(), x, noise=noise)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16])
def test_subnormal_steps_are_those_of_the_dtype(dtype):
    tiny = torch.finfo(dtype).smallest_normal
    for seed in range(DRAWS):
        g = torch.Generator().manual_seed(seed)
        x = torch.rand(4, 32, generator=g) * tiny * 4
        assert_close(x.to(dtype), x)
        assert_close(x.to(dtype), x.bfloat16())


def test_a_sum_that_was_not_declared_passes_where_its_noise_is_far_below_a_step():
    total = torch.zeros(16, 96)
    for i in range(1024):
        total = total + X[:, i : i + 1] * W[i]
    for actual in (total.bfloat16(), (X @ W).bfloat16()):
        assert_close(actual, PRODUCT)
        assert_close(actual.reshape(-1, 1), PRODUCT.reshape(-1, 1))


@pytest.mark.parametrize("between", [torch.float32, torch.bfloat16, torch.float16])
def test_a_value_that_is_rounded_twice_passes(between):
    x = torch.randn(512, 2048, generator=torch.Generator().manual_seed(2)).double().clamp(-4, 4)
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        assert_close(x.to(between).to(dtype), x)


@pytest.mark.parametrize("shape", [(64, 64), (1, 4096), (4096, 1)])
def test_ties_pass_whichever_way_they_are_rounded(shape):
    g = torch.Generator().manual_seed(4)
    tie = torch.randint(128, 256, shape, generator=g).float() * 2 + 1
    for actual in (tie.bfloat16(), (tie - 1).bfloat16(), (tie + 1).bfloat16()):
        assert_close(actual, tie)
        assert_close(actual, tie.double())


@pytest.mark.parametrize("side", [-1, 1])
def test_float32_may_take_a_value_over_a_tie(side):
    """All to the same side, as where all values are the same: only its own step says how far."""
    tie = torch.arange(128, 256).double().repeat(4, 8) * 2 + 1
    assert_close((tie - side).bfloat16(), tie * (1 + side * 2.0**-22))


def test_a_float32_output_may_be_off_by_a_step_of_its_own():
    step = steps(PRODUCT, torch.float32)
    low = torch.floor(PRODUCT / step) * step
    actual = torch.where((PRODUCT - low) / step < 0.6, low, low + step).float()
    assert_close(actual, PRODUCT)


def test_an_expected_in_the_same_dtype_makes_room_for_its_own_rounding():
    own = EXPECTED.bfloat16()
    assert_close(EXPECTED.mul(1.0005).bfloat16(), own)
    refused(truncated(EXPECTED, torch.bfloat16), own)
    refused(EXPECTED.mul(1.01).bfloat16(), own)


# The tolerance itself.

ROW = torch.tensor([[1.0, 1.5, 100.0, 0.25]])


def test_any_shape_is_a_matrix_of_its_last_dimension():
    for shape, rows in (((2, 3, 8), 6), ((8,), 1), ((), 1)):
        pair = as_pair(torch.ones(shape).bfloat16(), torch.ones(shape))
        assert pair.actual.shape == pair.expected.shape == (rows, shape[-1] if shape else 1)


def test_the_step_is_the_coarser_dtype_s_and_the_worst_error_both_halves():
    pair = as_pair(ROW.bfloat16(), ROW)
    assert pair.step.tolist() == [[2.0**-7, 2.0**-7, 0.5, 2.0**-9]]
    assert pair.eps == torch.finfo(torch.bfloat16).eps
    halves = (pair.step + steps(ROW, torch.float32)) / 2
    assert bool((pair.worst_error >= halves).all())
    assert bool((pair.worst_error <= halves * (1 + 2.0**-10)).all())
    assert torch.equal(as_pair(ROW, ROW.bfloat16()).step, pair.step)


@pytest.mark.parametrize(
    ("actual", "expected", "dtype"),
    [
        (ROW.bfloat16(), ROW, torch.float32),
        (ROW, ROW, torch.float64),
        (ROW.bfloat16(), ROW.double(), torch.float64),
        (ROW.bfloat16(), ROW * 2.0**50, torch.float64),
    ],
    ids=["coarse", "float32", "float64", "large"],
)
def test_float64_is_used_where_float32_is_too_coarse(actual, expected, dtype):
    pair = as_pair(actual, expected)
    assert (pair.actual.dtype, pair.expected.dtype) == (dtype, dtype)


def test_an_element_may_be_off_by_a_step_and_by_the_declared_noise():
    actual = ROW.clone()
    actual[0, 2] += 0.5
    assert not wrong_elements(as_pair(actual.bfloat16(), ROW), 0.0).any()
    actual[0, 2] += 0.5
    pair = as_pair(actual.bfloat16(), ROW)
    assert wrong_elements(pair, 0.0).tolist() == [[False, False, True, False]]
    assert not wrong_elements(pair, 0.01).any()


def test_nan_is_wrong_and_zeros_have_no_tolerance():
    zeros = torch.zeros(1, 3)
    actual = torch.tensor([[0.0, 1e-30, torch.nan]])
    assert wrong_elements(as_pair(actual, zeros), 0.0).tolist() == [[False, True, True]]


def test_a_declared_rel_rms_is_the_bound_of_rows_and_of_all():
    pair = as_pair(EXPECTED.bfloat16(), EXPECTED)
    allowed = declared(None, "f32", 0.0, 0.1, None)
    answer, total_factor = reference_with_tolerance(pair, allowed)
    rms = answer.variance.sqrt() * ROW_FACTOR / EXPECTED.norm(dim=1)
    assert rms.tolist() == pytest.approx([0.1] * len(EXPECTED), rel=1e-5)
    whole = total_factor * float(answer.variance.sum().sqrt()) / float(EXPECTED.norm())
    assert whole == pytest.approx(0.1, rel=1e-5)


def test_noise_widens_every_bound_and_rows_of_zeros_have_none():
    expected = EXPECTED.clone()
    expected[4] = 0
    pair = as_pair(expected.bfloat16(), expected)
    plain, noisy = (
        reference_with_tolerance(pair, declared(None, "f32", noise, None, None))[0].variance
        for noise in (0.0, 0.05)
    )
    assert float(plain[4]) == float(noisy[4]) == 0
    others = torch.arange(len(expected)) != 4
    assert bool((noisy[others] > 2 * plain[others]).all())


def test_a_lean_is_measured_and_none_is_seen_in_a_right_rounding():
    assert one_sided(as_pair(EXPECTED.bfloat16(), EXPECTED), 0.0) is None
    skew = one_sided(as_pair(truncated(EXPECTED, torch.bfloat16), EXPECTED), 0.0)
    assert (skew.side, skew.fraction) == ("toward zero", 1)
    assert 0.3 < float(skew.elements.float().mean()) < 0.7
    assert one_sided(as_pair(truncated(EXPECTED, torch.bfloat16), EXPECTED), 0.05) is None
    fine = EXPECTED.double() * (1 + 1e-7)
    assert one_sided(as_pair(fine.float(), EXPECTED.double()), 0.0) is None
