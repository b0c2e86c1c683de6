"""Broadcasts in real processes: every rank sees every row, unpadded, and gets its own sums."""

import torch

from harness import parallel_launch
from tests.moe import stack_ranks

COUNTS = [(3, 1), (0, 2), (2, 0, 3, 1)]


def test_every_rank_sees_the_rows_of_all_ranks_without_padding():
    for counts in COUNTS:
        parts = [stack_ranks.sent_by(r, n, "fp8_group") for r, n in enumerate(counts)]
        codes = torch.cat([x.codes.view(torch.uint8) for x, _ in parts])
        for got in parallel_launch(
            len(counts), stack_ranks.dispatched, "naive", counts, "fp8_group"
        ):
            assert torch.equal(got["codes"], codes)
            assert torch.equal(got["scale"], torch.cat([x.scale for x, _ in parts]))
            assert torch.equal(got["ids"], torch.cat([r.topk_ids for _, r in parts]))
            assert torch.equal(got["weights"], torch.cat([r.topk_weights for _, r in parts]))
            assert (got["counts"], got["tokens"]) == (counts, None)


def test_each_rank_gets_the_sums_of_its_own_rows():
    for counts in COUNTS:
        times = sum(rank + 1 for rank in range(len(counts)))
        for rank, (same_dtype, out) in enumerate(
            parallel_launch(len(counts), stack_ranks.finalized, "naive", counts, "float32")
        ):
            assert same_dtype
            numbers = torch.arange(float(counts[rank]))[:, None] + 100 * rank
            assert torch.equal(out, (numbers * times).expand(-1, 8))
