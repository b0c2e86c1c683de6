"""Buffers that are lent again: of the exact size, poisoned, guarded, and never to two at once."""

import torch

from moe import guarded_buffers
from moe.all2all.workspace import Workspace

CPU = torch.device("cpu")


def test_a_buffer_is_lent_again_in_the_size_that_is_asked_for():
    workspace = Workspace()
    large = workspace.take((4, 8), torch.float32, CPU)
    large.tensor.fill_(3.0)
    workspace.give_back(large)
    small = workspace.take((2, 4), torch.bfloat16, CPU)
    assert (small.tensor.shape, small.tensor.dtype) == ((2, 4), torch.bfloat16)
    assert small.raw is large.raw
    workspace.give_back(small)
    larger = workspace.take((5, 8), torch.float32, CPU)
    assert larger.raw is not large.raw
    workspace.give_back(larger)
    assert workspace.take((0, 8), torch.float32, CPU).tensor.shape == (0, 8)
    assert [len(raw) for raw in workspace._free] == [], "a buffer that was too small is kept"


def test_two_calls_that_are_under_way_do_not_share_a_buffer():
    workspace = Workspace()
    first, second = (workspace.take((4,), torch.float32, CPU) for _ in range(2))
    assert first.raw.data_ptr() != second.raw.data_ptr()
    workspace.give_back(first)
    assert workspace.take((4,), torch.float32, CPU).raw is first.raw


def test_what_an_earlier_call_left_is_poisoned_and_guarded():
    workspace = Workspace()
    with guarded_buffers.poisoned():
        lease = workspace.take((8,), torch.float32, CPU)
        lease.tensor.fill_(1.0)
        workspace.give_back(lease)
    with guarded_buffers.poisoned():
        lease = workspace.take((2,), torch.float32, CPU)
        assert bool(lease.tensor.isnan().all())
        beyond = lease.raw[guarded_buffers.GUARD_BYTES + 8 :][:4]
        beyond.zero_()  # an element behind the end, inside what the earlier call had
        says = ["4 bytes after a buffer of 8 bytes were overwritten"]
        assert guarded_buffers.broken_guards() == says
        workspace.give_back(lease)
        workspace.take((3,), torch.float32, CPU)
        assert guarded_buffers.broken_guards() == says, "what was seen is forgotten"
    assert guarded_buffers.broken_guards() == []
