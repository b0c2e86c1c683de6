"""The noise of single sums, against what it stands for: a tensor core's short accumulator."""

import math
from dataclasses import replace

import pytest
import torch

from moe.reference.row_matrices import RowMatrices
from moe.reference.sum_noise import gathered, of_each_sum, rounds_nothing, unit
from moe.spec import Numerics

TERMS, BITS = 32, 13
SHORT = Numerics.stated(accumulation=2.0**-15.5, promoted=128, aligned=(TERMS, BITS))


def exponent(x):
    return torch.where(x == 0, -999.0, x.abs().log2().floor())


def short_sum(x, w, promoted):
    """x [R, I], w [O, I] float64 -> [R, O] as the hardware gives it, aligned and cut off."""
    total = torch.zeros(len(x), len(w), dtype=torch.float64)
    sum_so_far = torch.zeros_like(total)
    for start in range(0, x.shape[1], TERMS):
        a, b = x[:, None, start : start + TERMS], w[None, :, start : start + TERMS]
        largest = torch.where(a * b == 0, -999.0, exponent(a) + exponent(b)).amax(dim=2)
        step = torch.exp2(torch.maximum(largest, exponent(sum_so_far)) - BITS)
        kept = (a * b / step[:, :, None]).trunc().sum(dim=2)
        sum_so_far = ((sum_so_far / step).trunc() + kept) * step
        if (start + TERMS) % promoted == 0:
            total, sum_so_far = total + sum_so_far, torch.zeros_like(total)
    return total + sum_so_far


def e4m3(x):
    return x.to(torch.float8_e4m3fn).double()


def data(terms, *, heavy):
    generator = torch.Generator().manual_seed(terms)
    x, up, w = (torch.randn(160, terms, generator=generator) for _ in range(3))
    return e4m3(torch.nn.functional.silu(1.5 * x) * up * 20 if heavy else x), e4m3(w)


def worst(off, sigma):
    return float((off.abs() / sigma).max())


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("terms", [64, 100, 128, 384])
def test_a_short_accumulator_stays_within_its_noise(terms, heavy):
    x, w = data(terms, heavy=heavy)
    off = short_sum(x, w, 128) - x @ w.T
    sigma = of_each_sum(x.float(), w.float(), SHORT)
    assert worst(off, sigma) < 5
    assert 0.2 < (off / sigma).square().mean().sqrt() < 1
    plain = of_each_sum(x.float(), w.float(), replace(SHORT, aligned=None))
    assert worst(off, plain) > 1.5 * worst(off, sigma)  # one number for all sums misses the worst
    assert 0.2 < (off / plain).square().mean().sqrt() < 1.1


def test_without_promotion_the_sum_so_far_is_that_of_all_terms():
    x, w = data(4096, heavy=False)
    x, w = x[:40], w[:40]
    off = short_sum(x, w, 1 << 20) - x @ w.T
    assert worst(off, of_each_sum(x.float(), w.float(), replace(SHORT, promoted=None))) < 5
    assert worst(off, of_each_sum(x.float(), w.float(), SHORT)) > 8


def test_scales_of_rows_and_columns_scale_the_noise():
    x, w = data(128, heavy=True)
    sigma = of_each_sum(x.float(), w.float(), SHORT)
    rows, columns = torch.logspace(-4, 4, 160), torch.logspace(4, -4, 160)
    scaled = of_each_sum(x.float() * rows[:, None], w.float() * columns[:, None], SHORT)
    assert torch.allclose(scaled, sigma * rows[:, None] * columns, rtol=1e-3)


def test_a_row_of_zeros_has_none():
    x, w = data(128, heavy=False)
    x[3] = 0
    assert of_each_sum(x.float(), w.float(), SHORT)[3].abs().max() < 1e-30


def test_a_plain_accumulator_s_is_the_same_for_equal_lengths():
    x, w = torch.ones(2, 50), torch.ones(3, 50)
    plain = Numerics.stated(accumulation=2.0**-22)
    wanted = math.sqrt(gathered(plain, 50) / 50) * 50
    assert of_each_sum(x, w, plain).tolist() == [pytest.approx([wanted] * 3)] * 2


def test_sums_of_few_bits_round_nothing_in_any_order():
    generator = torch.Generator().manual_seed(1)
    codes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    x, w = (codes[torch.randint(8, (6, 128), generator=generator)] for _ in range(2))
    x[:, ::3] *= -1
    x, w = x * torch.exp2(torch.arange(128) // 32 - 2.0), w * 2.0**-7
    plain = Numerics.stated(accumulation=2.0**-22)
    assert rounds_nothing(x, RowMatrices.one(w), plain).all()
    orders = [torch.randperm(128, generator=generator) for _ in range(4)]
    sums = [(x[:, None, order] * w[None, :, order]).cumsum(dim=2)[:, :, -1] for order in orders]
    assert all(torch.equal(total, (x.double() @ w.double().T).float()) for total in sums)
    assert not rounds_nothing(x, RowMatrices.one(w), SHORT).any()  # 13 bits are too few for them
    x[0, 5], w[2, 7] = 2.0**-20, 0.5 + 2.0**-20
    known = rounds_nothing(x, RowMatrices.one(w), plain)
    assert not known[0].any()
    assert not known[:, 2].any()
    assert known.sum() == 25


def test_exact_sums_among_others_are_those_of_all_columns():
    """Rows and columns without one are left out after the first columns."""
    generator = torch.Generator().manual_seed(3)
    x, w = (torch.randint(-4, 5, (8, 96), generator=generator).float() for _ in range(2))
    x[::2, 7] += 2.0**-20
    w[1::3, 90] += 2.0**-20
    known = rounds_nothing(x, RowMatrices.one(w), Numerics.stated(accumulation=2.0**-22))
    assert known.tolist() == [[i % 2 == 1 and j % 3 != 1 for j in range(8)] for i in range(8)]


@pytest.mark.parametrize("odd", [5, 127])
def test_one_term_of_many_bits_is_found_wherever_it_stands(odd):
    """Among the columns that are looked at first, or beyond them."""
    x, w = torch.ones(3, 128), torch.ones(4, 128)
    x[1, odd] += 2.0**-23
    known = rounds_nothing(x, RowMatrices.one(w), Numerics.stated(accumulation=2.0**-22))
    assert known.tolist() == [[True] * 4, [False] * 4, [True] * 4]


def test_sums_of_any_numbers_may_round():
    x, w = data(128, heavy=True)
    assert not rounds_nothing(
        torch.randn(4, 128), RowMatrices.one(torch.randn(5, 128)), Numerics.stated()
    ).any()
    assert not rounds_nothing(x * 0.3, RowMatrices.one(w * 0.7), Numerics.stated()).any()
    assert rounds_nothing(x * 0, RowMatrices.one(w), Numerics.stated()).all()


def test_the_unit_of_a_row_divides_all_its_numbers():
    """Of numbers of all sizes that float32 has; a row of zeros has an infinite one."""
    tiny = 2.0**-149
    x = torch.tensor([[1.0, 0, -0.375], [2.0**127, 3 * tiny, 0], [2.0**100, 0, 0], [0, 0, 0]])
    assert unit(x).tolist() == unit(x.double()).tolist() == [0.125, tiny, 2.0**100, math.inf]
    assert unit(torch.tensor([[2.0**-130, 5 * 2.0**-140], [-6.0, 64.0]])).tolist() == [2.0**-140, 2]
