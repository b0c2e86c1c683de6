"""What MoRI's operator gets and returns, between real processes over a stand-in."""

import pytest
import torch

from harness import parallel_launch
from moe.all2all.mori import tokens_at
from tests.moe.all2all import package_ranks

COUNTS = ((4, 7), (0, 5), (0, 0), (3, 0, 6))  # tokens of each rank, per case


@pytest.mark.parametrize("kind", ["model", "fp8_group"])
def test_rows_and_sums_are_those_of_our_own_member(kind):
    for counts in COUNTS:
        args = ("mori", counts, kind)
        for got, wanted in parallel_launch(len(counts), package_ranks.compared, *args):
            assert got == wanted, args


def test_tokens_are_found_by_their_position():
    assert tokens_at(torch.tensor([1, 9, 16]), 8, (5, 7, 2)).tolist() == [1, 6, 12]
