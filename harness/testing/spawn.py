"""`spawn`: takes the place of torch.multiprocessing.spawn in a test, with the same arguments.

`torch.multiprocessing.spawn` returns as if all were well when a rank ends with `os._exit(0)`, has
no time limit, and leaves the children of ranks behind. Here each of these fails or ends with the
call, and ranks are forked from a process that has imported torch already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import harness.testing.parallel_launch as ranks

if TYPE_CHECKING:
    from collections.abc import Callable

__tracebackhide__ = True  # pytest shows the caller's line, not these

TIMEOUT = 300.0  # seconds


def spawn(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
    *,
    timeout: float = TIMEOUT,
    device: str = "cpu",
) -> None:
    """Run `fn(rank, *args)` in `nprocs` processes and wait for all of them.

    As with torch.multiprocessing.spawn no process group exists yet: `fn` may set up its own. RANK,
    LOCAL_RANK and WORLD_SIZE are set. daemon and start_method change nothing. timeout: seconds.
    device: "cuda" if `fn` uses GPUs: its Triton kernels are then compiled, and each rank has a
    device of its own as the current one.

    Raises RankFailure, GangStartError, TypeError and ValueError as `parallel_launch`; ValueError
    for join=False, since no process outlives the call.
    """
    if not join:
        raise ValueError("join must be True: no process outlives the call; use threads to overlap")
    del daemon, start_method
    transport = "staged" if device == "cuda" else None
    ranks.parallel_launch(
        nprocs, _as_spawned, fn, args, timeout=timeout, device=device, transport=transport
    )


def _as_spawned(fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Run in a rank: leave the process group, which spawn's callers do not expect."""
    import torch.distributed as dist

    rank = dist.get_rank()
    dist.barrier()  # no rank leaves while another one is still joining
    dist.destroy_process_group()
    fn(rank, *args)
    if dist.is_initialized():  # by `fn`
        dist.destroy_process_group()
