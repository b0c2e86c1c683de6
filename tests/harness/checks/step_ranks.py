"""Cases whose ranks leave step, or whose sums depend on which rank is late, in real ranks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist

from harness.fixtures.layer_under_test import Subject
from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from moe.collectives import Group
from moe.layer import FusedMoE
from tests.harness.execute_ranks import run_all
from tests.mistakes.mistake import around

if TYPE_CHECKING:
    from harness.record.result import RankResult


def out_of_step(patch):
    """Ranks with tokens add up an empty tensor; over gloo nobody waits for that."""

    def forward(real, self, x, logits, **more):
        if len(x):
            dist.all_reduce(x.new_empty(0))
        return real(self, x, logits, **more)

    around(patch, FusedMoE, "forward", forward)


def out_of_step_in_repeats(patch):
    """The same, only in calls after the judged ones."""
    calls = [0]

    def call(real, self, *args):
        calls[0] += 1
        return real(self, *args)

    def all_reduce(real, self, x):
        if calls[0] > 2 and self.rank == 0:
            dist.all_reduce(x.new_empty(0))
        return real(self, x)

    around(patch, Subject, "call", call)
    around(patch, Group, "all_reduce", all_reduce)


def unread(patch):
    """Partial sums are combined as they were before a collective that nobody waits for."""

    def finalize(real, self, partial, dispatched):
        # Read after as long as the collective usually takes, not when it has ended.
        received = [torch.zeros_like(partial) for _ in range(self.group.size)]
        dist.all_gather(received, partial, group=self.group.handle, async_op=True)
        time.sleep(0.001)
        rows = len(partial) // self.group.size
        start = rows * self.group.rank
        total = torch.stack([r.clone()[start : start + rows] for r in received]).sum(0)
        return total[: dispatched.counts[self.group.rank]]

    around(patch, AllGatherReduceScatter, "finalize", finalize)


PLANTS = {"out_of_step": out_of_step, "in_repeats": out_of_step_in_repeats, "unread": unread}


def run_with(name: str, text: str) -> RankResult:
    """Run a case while a mistake is planted; the ranks end after it."""
    with pytest.MonkeyPatch.context() as patch:
        PLANTS[name](patch)
        (found,) = run_all([text])
    return found
