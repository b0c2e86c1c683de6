"""An executor of real cases in which one rank leaves the others waiting. `seed` names the fault."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist

from harness import execute
from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from tests.harness.execute_ranks import case as any_case
from tests.mistakes.mistake import around

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig
    from harness.record.result import RankResult

EXECUTOR = f"{__name__}:run_case"


def on_rank_one(change):
    """A fault that changes what rank 1 alone does where the sums are combined."""

    def plant(patch):
        def finalize(real, self, partial, dispatched):
            if dist.get_rank() != 1:
                return real(self, partial, dispatched)
            return change(real, self, partial, dispatched)

        around(patch, AllGatherReduceScatter, "finalize", finalize)

    return plant


@on_rank_one
def left_out(real, self, partial, dispatched):
    return partial[: dispatched.counts[self.group.rank]]


@on_rank_one
def late(real, self, partial, dispatched):
    time.sleep(600)


@on_rank_one
def raising(real, self, partial, dispatched):
    raise ValueError("the fault of rank 1")


@on_rank_one
def other_operation(real, self, partial, dispatched):
    self.group.all_gather(partial)
    return real(self, partial, dispatched)


@on_rank_one
def other_size(real, self, partial, dispatched):
    self.group.reduce_scatter(torch.cat([partial, partial]))


FAULTS = (left_out, late, raising, other_operation, other_size)


def case(fault, **fields) -> MoETestConfig:
    """A case of three ranks with this fault."""
    fields = {"m": 4, "dp_size": 3, "num_experts": 3, "use_ep": True, **fields}
    return any_case(seed=1 + FAULTS.index(fault), **fields)


def run_case(case: MoETestConfig, context) -> RankResult:
    """Collective."""
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[case.seed - 1](patch)
        return execute.run_case(case, context)
