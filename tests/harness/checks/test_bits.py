"""Bits are compared, not values; a row's checksum knows its columns' order."""

from __future__ import annotations

import pytest
import torch

from harness.checks.bits import bits_of, differing_elements, row_sums


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_nan_equals_itself_and_zero_has_a_sign(dtype):
    x = torch.tensor([[float("nan"), 0.0], [1.0, 2.0]]).to(dtype)
    negative = torch.tensor([[float("nan"), -0.0], [1.0, 2.0]]).to(dtype)
    assert bits_of(x).shape == x.shape
    assert torch.equal(bits_of(x), bits_of(x.clone()))
    assert (bits_of(x) != bits_of(negative)).nonzero().tolist() == [[0, 1]]


def test_a_view_has_the_bits_of_its_values():
    x = torch.arange(6.0).view(2, 3)
    assert torch.equal(bits_of(x.T), bits_of(x).T)


def test_a_row_s_checksum_sees_one_bit_and_two_columns_that_change_places():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(row_sums(x), row_sums(x.clone()))
    changed = x.clone()
    changed[1, 5] = changed.view(torch.int16)[1, 5].bitwise_xor(1).view(torch.bfloat16)
    changed[2, [2, 3]] = changed[2, [3, 2]]
    assert (row_sums(changed) != row_sums(x)).tolist() == [False, True, True]


def test_elements_that_differ_are_counted_and_the_first_one_is_given():
    x = torch.tensor([[float("nan"), 1.0], [2.0, 3.0]])
    assert differing_elements(x, x.clone(), "now") is None
    changed = x.clone()
    changed[1] = torch.tensor([2.5, 4.0])
    text = "2 of 4 elements differ now, first [1, 0]: 2, then 2.5"
    assert differing_elements(x, changed, "now") == text
    assert differing_elements(x[:0], x[:0], "now") is None
