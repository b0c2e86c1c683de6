"""Rows of which one column is most have the factor of one rounding; others keep theirs."""

from __future__ import annotations

import pytest
import torch

from harness.checks.large_columns import UNIFORM, shares, total_factor
from moe.reference.error_propagation import rounding_variance
from moe.reference.formats import on_grid


def rows(share, count=1, columns=100, seed=0):
    """Rows whose column 7 is most of them but for `share`."""
    draw = torch.Generator().manual_seed(seed)
    out = share * torch.randn(count, columns, generator=draw)
    out[:, 7] = 16 + 16 * torch.rand(count, generator=draw)
    return out


def test_shares_are_from_equal_columns_to_one_column():
    out = torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 3.0, 0.0, 0.0], [0.0] * 4])
    assert shares(out).tolist() == pytest.approx([0.25, 1.0, 0.0])
    assert shares(out * 1e30).tolist() == pytest.approx([0.25, 1.0, 0.0])


def test_normal_columns_and_many_rows_keep_the_factor():
    draw = torch.Generator().manual_seed(1)
    normal = torch.randn(4, 512, generator=draw)
    assert total_factor(torch.ones(4), normal) < 1.2
    assert total_factor(torch.ones(200), rows(0.1, count=200)) < 1.5


def test_one_row_of_one_column_has_the_factor_of_a_rounding():
    assert total_factor(torch.ones(1), rows(0.1)) == UNIFORM
    above = torch.full((32,), 1e-9)
    above[3] = 1.0
    assert total_factor(above, rows(0.1, count=32)) == UNIFORM
    assert total_factor(torch.zeros(2), torch.zeros(2, 8)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_it_covers_each_rounding(dtype):
    used = []
    for seed in range(200):
        out = rows(0.02, seed=seed)
        variance = rounding_variance(out, dtype).sum(dim=1)
        error = (on_grid(out, dtype) - out).norm()
        used.append(float(error / variance.sqrt()) / total_factor(variance, out))
    assert max(used) <= 1.001
    assert max(used) > 0.9
