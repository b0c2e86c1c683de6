"""Groups and collectives of a layer, in real processes: who meets whom, and what arrives."""

import pytest
import torch

from harness import parallel_launch
from moe.collectives import ALONE
from moe.layout import Layout
from tests.moe import stack_ranks

# layout -> for each rank the global ranks of its gather group and of its TP group
MEETINGS = [
    (Layout(tp_size=2), [[0], [1]], [[0, 1], [0, 1]]),
    (Layout(tp_size=2, use_ep=True), [[0], [1]], [[0, 1], [0, 1]]),
    (Layout(tp_size=2, use_ep=True, sequence_parallel=True), [[0, 1]] * 2, [[0, 1]] * 2),
    (Layout(dp_size=2), [[0, 1]] * 2, [[0], [1]]),
    (Layout(dp_size=2, use_ep=True), [[0, 1]] * 2, [[0], [1]]),
    (
        Layout(dp_size=2, tp_size=2),
        [[0, 2], [1, 3], [0, 2], [1, 3]],
        [[0, 1], [0, 1], [2, 3], [2, 3]],
    ),
    (
        Layout(dp_size=2, tp_size=2, use_ep=True, sequence_parallel=True),
        [[0, 1, 2, 3]] * 4,
        [[0, 1], [0, 1], [2, 3], [2, 3]],
    ),
]


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize(("layout", "gather", "tp"), MEETINGS, ids=lambda value: "")
def test_each_layout_s_groups_hold_the_right_ranks(layout, gather, tp, staged):
    world = layout.world_size
    got = parallel_launch(world, stack_ranks.group_members, layout, staged)
    for rank in range(world):
        for (size, place, goes_by_host, met), wanted in zip(
            got[rank], (gather[rank], tp[rank]), strict=True
        ):
            assert (size, met) == (len(wanted), wanted)
            assert place == wanted.index(rank)
            assert goes_by_host == (staged and size > 1)


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("world", [2, 4])
def test_collectives_give_rank_order_and_sums(world, staged):
    block = torch.arange(6.0).view(2, 3)
    total = world * (world - 1) // 2  # of the ranks' numbers
    for rank, got in enumerate(parallel_launch(world, stack_ranks.collectives, staged)):
        assert torch.equal(got["gather"], torch.cat([block + 100 * r for r in range(world)]))
        turned = torch.cat([block.T + 100 * r for r in range(world)])
        assert torch.equal(got["gather_transposed"], turned)
        rows = torch.tensor([[2.0 * rank], [2.0 * rank + 1]])
        assert torch.equal(got["scatter"].float(), rows * world + 10 * total)
        assert got["scatter"].dtype == torch.bfloat16
        assert torch.equal(got["reduce"], block * world + 100 * total)
        assert got["counts"] == tuple(3 * r for r in range(world))
        numbers = torch.arange(2.0 * world)[:, None]
        assert torch.equal(got["last"], numbers + 10 * (world - 1))
        assert torch.equal(got["own"], numbers + 10 * rank)


@pytest.mark.parametrize("staged", [False, True])
def test_an_all_to_all_may_be_uneven_and_send_nothing(staged):
    for rank, (rows, fp8, nothing) in enumerate(parallel_launch(3, stack_ranks.exchanged, staged)):
        wanted = [10 * s + rank for s in range(3) for _ in range((s + 2 * rank) % 3)]
        assert rows.tolist() == [[number] * 2 for number in wanted]
        assert torch.equal(fp8, rows)
        assert nothing == (0, 2)


@pytest.mark.parametrize("staged", [False, True])
def test_one_byte_formats_arrive_bit_for_bit(staged):
    codes = torch.arange(256, dtype=torch.uint8)
    wanted = torch.cat([codes.view(-1, 2), codes.roll(1).view(-1, 2)])
    for found in parallel_launch(2, stack_ranks.every_code, staged):
        for same_dtype, got in found:
            assert same_dtype
            assert torch.equal(got, wanted)


def test_a_group_of_one_needs_no_process_group():
    x = torch.arange(4.0)
    assert ALONE.all_gather(x) is x
    assert ALONE.reduce_scatter(x) is x
    assert ALONE.all_reduce(x) is x
    assert ALONE.broadcast(x, 0) is x
    assert ALONE.all_to_all(x, [4], [4]) is x
    assert ALONE.gather_counts(3, torch.device("cpu")) == (3,)
