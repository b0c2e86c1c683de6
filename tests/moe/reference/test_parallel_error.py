"""The error of a correct output along the reference, by hand-made intermediates."""

from __future__ import annotations

import pytest
import torch

from moe.reference.error_propagation import Noisy
from moe.reference.parallel_error import along_itself


def test_a_shift_that_all_values_share_is_allowed_once_and_whole() -> None:
    """A dynamic scale that is a step off moves every value of its row by the same share."""
    h = Noisy(
        value=torch.tensor([[[1.0, 2.0]]]),
        variance=torch.zeros(1, 1, 2),
        jumps=torch.zeros(1, 1, 2),
        doubt=torch.tensor([[[0.5, 0.0]]]),
        shift=torch.tensor([[[0.1, 0.2]]]),
    )
    power = torch.tensor([[[3.0, 5.0]]])
    y = torch.tensor([[[2.0, 4.0]]])
    found = along_itself(h, power, y.square().sum(dim=2), lost=0.01)
    assert found[0, 0] == 0
    assert float(found[1, 0]) == pytest.approx((0.5 * 1.0 * 3.0) ** 2)
    assert float(found[2, 0]) == pytest.approx(0.1 * 1 * 3 + 0.2 * 2 * 5 + 0.01 * 20)


def noisy(value: list[list[float]], variance: float = 0.0, jumps: float = 0.0) -> Noisy:
    """One row on each rank, without shared shifts or doubts."""
    tensor = torch.tensor(value)[:, None]
    return Noisy(
        value=tensor,
        variance=torch.full_like(tensor, variance),
        jumps=torch.full_like(tensor, jumps),
        doubt=torch.zeros_like(tensor),
    )


def test_noise_counts_by_the_square_of_what_its_intermediate_contributes() -> None:
    power = torch.tensor([[[3.0, 5.0]]])
    length = torch.tensor([[1.0]])
    parts = along_itself(noisy([[1.0, 2.0]], variance=0.1, jumps=0.3), power, length, lost=0.0)
    assert float(parts[0, 0]) == pytest.approx(0.4 * (1.0 * 3.0**2 + 4.0 * 5.0**2))
    assert parts[1:].tolist() == [[0.0], [0.0]]


def test_ranks_add_up() -> None:
    h, power = noisy([[1.0, 2.0], [-3.0, 0.0]], variance=0.1), torch.ones(2, 1, 2)
    length = torch.tensor([[2.0], [4.0]])
    both = along_itself(h, power, length, lost=0.5)
    assert both[:, 0].tolist() == pytest.approx([0.1 * (1 + 4 + 9), 0.0, 0.5 * 6])
