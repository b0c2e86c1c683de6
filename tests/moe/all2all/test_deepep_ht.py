"""What DeepEP's high-throughput kernels get and return, between real processes over a stand-in."""

import pytest
import torch

from harness import parallel_launch
from moe.all2all.deepep_ht import tokens_of
from moe.errors import MoEError
from tests.moe.all2all import package_ranks

COUNTS = ((4, 7), (0, 5), (0, 0), (3, 0, 6))  # tokens of each rank, per case


@pytest.mark.parametrize("kind", ["model", "fp8_group"])
def test_rows_and_sums_are_those_of_our_own_member(kind):
    for counts in COUNTS:
        args = ("deepep_ht", counts, kind)
        for got, wanted in parallel_launch(len(counts), package_ranks.compared, *args):
            assert got == wanted, args


def test_tokens_are_found_by_where_the_rows_of_a_sender_end():
    ends = torch.tensor([[0, 2], [0, 2], [3, 3]])  # rank 1 gets two rows of rank 0, one of rank 2
    handle = (ends, None, None, torch.tensor([1, 4, 0]), None, None)
    assert tokens_of(handle, 1, (5, 7, 2)).tolist() == [1, 4, 12]


def test_ranks_on_several_hosts_are_an_error():
    with pytest.raises(MoEError, match=r"handle has 10 parts, and 6 if all ranks are on one host"):
        tokens_of((None,) * 10, 0, (1, 1))
