"""An executor for gangs on devices; the fault is named by the case's `seed`."""

from __future__ import annotations

import os
import signal
import time

import torch
import torch.distributed as dist

from harness.matrix.case import MoETestConfig
from harness.record.result import RankResult, Verdict


def _collectives(context):
    """CPU and device tensors through one group; staged gangs only have the first."""
    for device in ("cpu", context.device) if context.transport == "nccl" else ("cpu",):
        x = torch.full((1024,), float(context.rank + 1), device=device)
        dist.all_reduce(x)
        assert x[-1].item() == context.world_size * (context.world_size + 1) / 2
    ones = torch.ones(256, 256, device=context.device)
    assert (ones @ ones)[0, 0].item() == 256.0


def _assert_on_device(context):
    """A sticky error: the context is useless afterwards."""
    x = torch.zeros(4, device=context.device)
    x[torch.tensor([99], device=context.device)] = 1.0
    torch.cuda.synchronize()


def _miss_collective(context):
    x = torch.ones(1024, device=context.device)
    dist.all_reduce(x)  # communicators are up from here on
    torch.cuda.synchronize()
    if context.rank == 1:
        time.sleep(600)
    dist.all_reduce(x)
    torch.cuda.synchronize()


def _die_with_much_memory(context):
    """Most of the device in use, and gone without a word."""
    _take(context, 0.6)
    dist.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


def _need_much_memory(context):
    _take(context, 0.6)
    torch.cuda.empty_cache()  # for the next case of this rank, which asks what is free


def _take(context, share):
    free, _ = torch.cuda.mem_get_info()
    total = torch.cuda.get_device_properties(context.device).total_memory
    sharing = -(-context.world_size // torch.cuda.device_count())
    size = int(total * share) // sharing
    assert free > size, f"{free >> 20} MiB free, {size >> 20} wanted"
    torch.empty(size, dtype=torch.uint8, device=context.device).fill_(1)
    torch.cuda.synchronize()


def _raise_all(context):
    raise ValueError("the fault of all")


FAULTS = {
    function.__name__.removeprefix("_"): function
    for function in (
        _collectives,
        _assert_on_device,
        _miss_collective,
        _die_with_much_memory,
        _need_much_memory,
        _raise_all,
    )
}
_NAMES = list(FAULTS)


def case(fault: str, world: int, m: int = 8) -> MoETestConfig:
    seed = _NAMES.index(fault)
    return MoETestConfig(
        m=m, n=8, k=8, num_experts=2, top_k=1, experts="torch_loop", tp_size=world, seed=seed
    )


def run_case(case: MoETestConfig, context) -> RankResult:
    FAULTS[_NAMES[case.seed]](context)
    return RankResult(rank=context.rank, verdict=Verdict.PASSED)


def used_device(_index):
    """For parallel_launch: what a rank finds."""
    x = torch.full((4,), float(dist.get_rank()), device="cuda")
    dist.all_reduce(x)
    return x, torch.cuda.current_device()
