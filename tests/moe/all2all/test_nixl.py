"""What NIXL's low-latency kernels get and return, between real processes over a stand-in."""

import pytest

from harness import parallel_launch
from tests.moe.all2all import package_ranks

COUNTS = ((4, 7), (0, 5), (0, 0), (3, 0, 6))  # tokens of each rank, per case


@pytest.mark.parametrize("kind", ["model"])
def test_rows_and_sums_are_those_of_our_own_member(kind):
    for counts in COUNTS:
        args = ("nixl", counts, kind)
        for got, wanted in parallel_launch(len(counts), package_ranks.compared, *args):
            assert got == wanted, args
