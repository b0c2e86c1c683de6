"""What FlashInfer's MoeAlltoAll gets and returns, between real processes over a stand-in."""

import pytest
import torch

from harness import parallel_launch
from moe.all2all.flashinfer_nvlink import payloads_of
from tests.moe import stack_ranks
from tests.moe.all2all import package_ranks

COUNTS = ((4, 7), (0, 5), (0, 0), (3, 0, 6))  # tokens of each rank, per case


@pytest.mark.parametrize("kind", ["model", "fp8_static", "fp8_group", "int8_token"])
def test_rows_and_sums_are_those_of_our_own_member(kind):
    for counts in COUNTS:
        args = ("flashinfer_nvlink", counts, kind)
        for got, wanted in parallel_launch(len(counts), package_ranks.compared, *args):
            assert got == wanted, args


def test_the_widest_elements_come_first_and_codes_last():
    x, routing = stack_ranks.sent_by(1, 3, "fp8_group")
    payloads = payloads_of(x, routing, 7)
    assert [t.dtype for t in payloads] == [
        torch.int32,
        torch.int32,
        torch.float32,
        torch.uint8,
    ]
    assert payloads[1][:, -1].tolist() == [7, 8, 9]
    x, routing = stack_ranks.sent_by(1, 3, "fp8_static")
    assert len(payloads_of(x, routing, 7)) == 3, "one scale for all rows does not travel"
