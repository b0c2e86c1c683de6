"""Rows times matrices of their own, against one matrix after another."""

from __future__ import annotations

import torch

from moe.reference.row_matrices import RowMatrices

GENERATOR = torch.Generator().manual_seed(0)
SIZES = (2, 1, 4)
MATRICES = tuple(torch.randn(3, 5, generator=GENERATOR) for _ in SIZES)
X = torch.randn(sum(SIZES), 5, generator=GENERATOR)
EACH = RowMatrices(
    matrices=MATRICES, sizes=SIZES, which=torch.tensor([0, 0, 1, 2, 2, 2, 2], dtype=torch.int64)
)


def by_row(of):
    """The result of `of` for each row and its matrix."""
    return torch.stack([of(row, MATRICES[i]) for row, i in zip(X, EACH.which, strict=True)])


def test_each_row_is_multiplied_by_its_own_matrix():
    assert torch.allclose(EACH.product(X), by_row(lambda row, w: w @ row))
    assert torch.allclose(EACH.product(X, of=torch.abs), by_row(lambda row, w: w.abs() @ row))
    by_rank = EACH.product(torch.stack([X, 2 * X]), of=lambda w: torch.stack([w, -w]))
    assert torch.allclose(by_rank[0], by_row(lambda row, w: w @ row))
    assert torch.allclose(by_rank[1], -2 * by_rank[0])


def test_what_is_known_of_a_matrix_is_known_of_its_rows():
    squares = by_row(lambda _, w: w.square().sum(dim=1))
    assert torch.allclose(EACH.squares(), squares)
    made = []
    for _ in range(2):
        sums = EACH.of_rows("sum", lambda w: made.append(w) or w.sum(dim=0))
        assert torch.equal(sums, by_row(lambda _, w: w.sum(dim=0)))
    assert len(made) == len(MATRICES), "it is kept with each matrix"


def test_one_matrix_is_that_of_any_number_of_rows():
    one = RowMatrices.one(MATRICES[0])
    assert torch.equal(one.product(X), X @ MATRICES[0].T)
    assert one.squares().shape == (1, 3)
