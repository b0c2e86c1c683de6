"""Buffers that ranks address: which call gets which, and who is refused."""

import pytest
import torch

from harness import parallel_launch
from moe.all2all.peer_memory import OwnMemory, PeerPool, host_number, open_peer_memory
from moe.collectives import ALONE, Group
from moe.errors import MoEError
from tests.moe import stack_ranks

CPU = torch.device("cpu")


def test_a_buffer_that_was_given_back_rests_until_all_ranks_met():
    pool = PeerPool(ALONE)
    first = pool.take((4, 2), torch.float32, CPU)
    second = pool.take((4, 2), torch.float32, CPU)
    assert first.memory is not second.memory
    pool.give_back(first)
    third = pool.take((4, 2), torch.float32, CPU)
    assert third.memory is not first.memory
    pool.meet(second)
    smaller = pool.take((3, 1), torch.bfloat16, CPU)
    assert smaller.memory is first.memory
    assert smaller.tensor.shape == (3, 1)
    assert int(smaller.addresses[0]) == smaller.tensor.data_ptr()


def test_a_larger_buffer_takes_the_place_of_a_small_one():
    pool = PeerPool(ALONE)
    small = pool.take((2,), torch.float32, CPU)
    pool.give_back(small)
    pool.meet(small)
    large = pool.take((2000,), torch.float32, CPU)
    pool.give_back(large)
    pool.meet(large)
    assert pool.take((2,), torch.float32, CPU).memory is large.memory


def test_values_are_not_needed_to_record_launches():
    lease = PeerPool(Group(handle=None, size=3, rank=0)).take(
        (2, 2), torch.float32, torch.device("meta")
    )
    assert lease.tensor.is_meta
    assert lease.addresses.shape == (3,)
    assert isinstance(lease.memory, OwnMemory)


def test_ranks_on_several_hosts_are_an_error_on_each():
    for error in parallel_launch(2, stack_ranks.on_hosts, (5, 7)):
        assert error.startswith("the ranks of a group are on 2 hosts (or in separate containers)")
        assert "use an all2all backend with collectives" in error
    assert parallel_launch(2, stack_ranks.on_hosts, (5, 5)) == ["no error"] * 2
    assert host_number() == host_number()


def test_a_device_that_ranks_share_or_that_nobody_knows_is_an_error():
    handle = object()
    with pytest.raises(MoEError, match=r"ranks share cuda:0, .* a device of its own"):
        open_peer_memory(
            Group(handle=handle, size=2, rank=0, staged=True), 64, torch.device("cuda:0")
        )
    with pytest.raises(MoEError, match=r"no memory .* for a device xpu; .* cpu, cuda"):
        open_peer_memory(Group(handle=handle, size=2, rank=0), 64, torch.device("xpu"))
