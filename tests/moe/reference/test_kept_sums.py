"""Sums of a matrix are computed once, and forgotten with it."""

import gc
import weakref

import torch

from moe.reference.kept_sums import _kept, kept, row_squares


def test_a_name_is_computed_once_for_a_tensor_and_again_for_another_one():
    first, second = torch.ones(2, 3), torch.ones(2, 3)
    calls = []

    def number():
        calls.append(len(calls))
        return torch.tensor(calls[-1])

    got = [int(kept(m, name, number)) for m in (first, second, first) for name in ("a", ("b", 1))]
    assert got == [0, 1, 2, 3, 0, 1]


def test_nothing_is_kept_of_a_tensor_that_is_gone():
    matrix = torch.ones(2, 3)
    result = weakref.ref(row_squares(matrix))
    assert row_squares(matrix).tolist() == [3.0, 3.0]
    assert matrix in _kept
    del matrix
    gc.collect()
    assert result() is None


def test_a_matrix_that_is_changed_in_place_is_computed_again():
    matrix = torch.ones(2, 3)
    row_squares(matrix)
    matrix[0] = 2
    assert row_squares(matrix).tolist() == [12.0, 3.0]


def test_matrices_of_inference_mode_are_kept_too():
    with torch.inference_mode():
        matrix = torch.ones(2, 3)
        assert row_squares(matrix) is row_squares(matrix)
