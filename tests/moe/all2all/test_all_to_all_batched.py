"""Blocks of a fixed capacity in real processes: who lies where, what comes back, what overflows."""

import pytest
import torch

from harness import parallel_launch
from moe.collectives import ALONE
from moe.errors import MoEError
from moe.types import Routing
from tests.moe import stack_ranks

COUNTS = [(3, 1), (0, 2), (0, 0), (2, 0, 3, 1)]
NAME = "all_to_all_batched"


def test_each_row_lies_in_its_expert_s_block_in_rank_order():
    for kind in ("model", "fp8_static", "fp8_group", "int8_token"):
        for counts in COUNTS:
            got = parallel_launch(len(counts), stack_ranks.blocks, counts, kind)
            for rank, blocks in enumerate(got):
                wanted = stack_ranks.wanted_blocks(counts, kind, rank)
                assert blocks["rows"] == wanted, (kind, counts, rank)
                assert blocks["counts"] == [len(rows) for rows in wanted]
                assert blocks["ones"]


def test_outputs_are_weighed_and_added_in_float32_by_the_token_s_rank():
    for counts in COUNTS:
        for rank, out in enumerate(parallel_launch(len(counts), stack_ranks.weighed, counts)):
            _, routing = stack_ranks.few_experts(rank, counts[rank], "model")
            outputs = (routing.topk_ids.float() / 3).bfloat16().float()
            wanted = (outputs * routing.topk_weights).sum(dim=1).bfloat16().float()
            assert torch.equal(out, wanted[:, None].expand(-1, 4))


def test_an_overflow_is_an_error_on_every_rank_that_names_expert_count_and_capacity():
    """Expert 2 is held by one of the ranks only, and gets 4 rows of both."""
    for error in parallel_launch(2, stack_ranks.overflowing, 3):
        assert error == (
            "expert 2 gets 4 rows, and its capacity is 3: give each expert more capacity, or send "
            "fewer tokens at a time"
        )
    assert parallel_launch(2, stack_ranks.overflowing, 4) == ["no error"] * 2
    for error in parallel_launch(2, stack_ranks.overflowing, 5, 1):
        assert (
            "disagree on the capacity of an expert, -1 = for all tokens: 5, 6 in rank order"
            in error
        )


def test_an_overflow_of_another_group_s_expert_is_an_error_here_too():
    """The other group's ranks have the same tokens: all raise it, and none waits for the others."""
    member = stack_ranks.made(NAME, ALONE, experts=4)
    member.experts_of, member.capacity = ((0, 1),), 1
    member.holders[0, 2:] = False
    x, _ = stack_ranks.sent_by(0, 3, "model")
    ids = torch.tensor([[0, 3], [1, 3], [-1, -1]], dtype=torch.int32)
    with pytest.raises(MoEError, match=r"^expert 3 gets 2 rows, and its capacity is 1"):
        member.prepare(x, Routing(topk_ids=ids, topk_weights=torch.ones(3, 2)))
