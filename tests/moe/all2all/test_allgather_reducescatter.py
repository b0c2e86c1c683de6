"""Gathering and scattering in real processes: uneven and empty ranks, padding kept out."""

import pytest
import torch

from harness import parallel_launch
from tests.moe import stack_ranks

GATHER = "allgather_reducescatter"
COUNTS = [(3, 1), (0, 2), (0, 0), (2, 0, 3, 1)]
KINDS = ["model", "fp8_static", "fp8_group", "int8_token"]


def padded(counts, kind):
    """What every rank must see: each rank's rows and, up to the largest count, None."""
    high = max(counts)
    rows = []
    for rank, count in enumerate(counts):
        x, routing = stack_ranks.sent_by(rank, count, kind)
        rows += [(x, routing, i) for i in range(count)] + [None] * (high - count)
    return rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_every_rank_sees_every_row_as_it_was_sent(counts, kind):
    wanted = padded(counts, kind)
    for got in parallel_launch(len(counts), stack_ranks.dispatched, GATHER, counts, kind):
        assert got["counts"] == counts
        assert len(got["codes"]) == len(wanted)
        for i, row in enumerate(wanted):
            if row is None:
                assert got["ids"][i].tolist() == [-1, -1]
                assert not bool(got["codes"][i].any()), "padding moves no dynamic scale"
                continue
            x, routing, place = row
            codes = x.codes[place]
            exact = codes.view(torch.uint8) if codes.element_size() == 1 else codes.float()
            assert got["dtype"] == str(codes.dtype)
            assert torch.equal(got["codes"][i], exact)
            assert torch.equal(got["ids"][i], routing.topk_ids[place])
            assert torch.equal(got["weights"][i], routing.topk_weights[place])
            if x.scale is not None and x.scale.ndim == 2:
                assert torch.equal(got["scale"][i], x.scale[place])
        if kind == "fp8_static":
            assert got["scale"].item() == 0.5
        if kind == "model":
            assert got["scale"] is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_each_rank_gets_the_sums_of_its_own_rows(counts, dtype):
    """Every rank adds (rank + 1) times the row's number; padding rows are NaN on all ranks."""
    times = sum(rank + 1 for rank in range(len(counts)))
    got = parallel_launch(len(counts), stack_ranks.finalized, GATHER, counts, dtype)
    for rank, (same_dtype, out) in enumerate(got):
        assert same_dtype
        numbers = torch.arange(float(counts[rank]))[:, None] + 100 * rank
        assert out.shape == (counts[rank], 8)
        # The numbers and their sums fit 8 bits or lose at most a rounding at each addition.
        assert torch.allclose(out, (numbers * times).expand(-1, 8), rtol=0.02, atol=0)
