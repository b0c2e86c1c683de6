"""Weights of experts move with all that belongs to them, in place, and only what differs."""

from __future__ import annotations

import re

import pytest
import torch

from moe.eplb.difference import moves
from moe.eplb.exchange import Transfer, check_listed, pack, unpack
from moe.errors import MoEError
from moe.placement import Placement
from tests.moe.eplb.thread_ranks import World, group_of

DTYPES = (torch.bfloat16, torch.float8_e4m3fn, torch.uint8, torch.int32, torch.float32)
EXPERTS = 4


def parts_of(expert):
    """Odd numbers of bytes, of every dtype that weights, scales and zero points have."""
    made = {f"{i}": torch.full((3 + i,), expert + i).to(d) for i, d in enumerate(DTYPES)}
    return {**made, "per expert": torch.tensor(float(expert))}


def tensors_of(experts):
    by_expert = [parts_of(e) for e in experts]
    joined = {n: torch.stack([p[n].float() for p in by_expert]) for n in by_expert[0]}
    made = {n: t.to(by_expert[0][n].dtype) for n, t in joined.items()}
    return made | {
        "transposed": torch.stack([torch.full((2, 3), e) for e in experts]).transpose(1, 2)
    }


def placement(*held):
    return Placement(num_experts=EXPERTS, physical_to_logical=held, counts=(3, 3))


BEFORE = placement(0, 1, 2, 3, 0, 1)


@pytest.mark.parametrize(
    "after",
    [
        placement(3, 0, 1, 0, 1, 2),  # every slot, across the ranks
        placement(1, 2, 0, 0, 3, 1),  # within each rank, in a circle
        placement(0, 3, 3, 3, 2, 1),  # one expert twice on a rank: sent once
        BEFORE,
    ],
)
def test_every_slot_has_the_new_expert_s_parts_and_no_others(after):
    world = World(2)
    listed = moves(BEFORE, after)

    def rank(r):
        tensors = tensors_of(BEFORE.experts_of(r))
        places = {name: t.data_ptr() for name, t in tensors.items()}
        transfer = Transfer(tensors, listed, group_of(world, r))
        transfer.start()
        untouched = tensors_of(BEFORE.experts_of(r))
        assert all(torch.equal(tensors[n].float(), untouched[n].float()) for n in tensors)
        world.swap(r, None)
        transfer.finish()
        assert places == {name: t.data_ptr() for name, t in tensors.items()}, "in place"
        return tensors, transfer.sent_bytes

    results = world.run(rank)
    for r, (tensors, _) in enumerate(results):
        expected = tensors_of(after.experts_of(r))
        assert all(torch.equal(tensors[n].float(), expected[n].float()) for n in tensors), r
    size = len(pack(results[0][0], 0))
    sent = sum(count for _, count in results)
    assert sent == size * sum(not m.is_local for m in listed), "only the difference is sent"


def test_bytes_of_another_layout_are_an_error():
    tensors = tensors_of([0, 1])
    with pytest.raises(MoEError, match="bytes arrived for slot 1, whose"):
        unpack(tensors, 1, pack(tensors, 0)[:-1])


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({}, "lists nothing"),
        ({"w2": torch.zeros(3, 2)}, "the tensor w2 of [3, 2] has no part for each of the rank's 2"),
        ({"a": torch.zeros(())}, "the tensor a of [] has no part"),
        ({"a": torch.zeros(1).expand(2)}, "all experts of a are one piece of memory"),
    ],
)
def test_tensors_that_are_not_by_expert_are_an_error(tensors, text):
    with pytest.raises(MoEError, match=re.escape(text)):
        check_listed(tensors, 2, "Mine")


def test_memory_that_is_listed_twice_is_an_error():
    w = torch.zeros(2, 4)
    check_listed({"w": w}, 2, "Mine")
    with pytest.raises(MoEError, match="b and a share their memory"):
        check_listed({"a": w, "b": w.view(2, 2, 2)}, 2, "Mine")
