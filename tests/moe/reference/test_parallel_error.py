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
    power = torch.tensor([[[3.0], [5.0]]])
    y = torch.tensor([[[2.0, 4.0]]])
    found = along_itself(h, power, y.square().sum(dim=2), lost=0.01)
    assert found[0, 0] == 0
    assert float(found[1, 0]) == pytest.approx((0.5 * 1.0 * 3.0) ** 2)
    assert float(found[2, 0]) == pytest.approx(0.1 * 1 * 3 + 0.2 * 2 * 5 + 0.01 * 20)
