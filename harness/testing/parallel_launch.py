"""`parallel_launch`: run a function in every rank of a fresh gang. Public, for any test.

The function and its result are pickled between processes of one user, through a folder that only
this user can enter. The processes that ranks are forked from stay warm until this process ends, so
only the first call pays for importing torch. This process never joins a group or uses a device.
"""

from __future__ import annotations

import functools
import pickle
from typing import TYPE_CHECKING, Any, TypeVar

from harness.engine.gang import Gang
from harness.engine.gang_notices import GangReady, watch
from harness.engine.gang_spec import GangSpec
from harness.engine.messages import Failed
from harness.engine.rank_bootstrap import CALL, result_file
from harness.engine.task_outcome import Outcome, rank_words
from harness.engine.warm_gangs import GangStartError
from harness.errors import HarnessError
from harness.testing.warm_pool import WarmPool, shutdown

if TYPE_CHECKING:
    from collections.abc import Callable

__tracebackhide__ = True  # pytest shows the caller's line, not these

T = TypeVar("T")

TRANSPORTS = {"cpu": ("gloo",), "cuda": ("nccl", "staged")}


class RankFailure(HarnessError):
    """Raised if ranks failed. `ranks`: rank -> what happened, with its traceback or stack."""

    def __init__(self, ranks: dict[int, str], world_size: int) -> None:
        self.ranks = ranks
        names = ", ".join(map(str, sorted(ranks)))
        text = "\n".join(ranks[rank] for rank in sorted(ranks))
        super().__init__(f"{len(ranks)} of {world_size} ranks failed ({names}):\n{text}")


def parallel_launch(
    world_size: int,
    fn: Callable[..., T],
    *args: Any,
    timeout: float = 60.0,
    device: str = "cpu",
    transport: str | None = None,
) -> list[T]:
    """Run `fn(*args)` in `world_size` ranks at once and return their values in rank order.

    In `fn` the default process group of torch.distributed is up, and RANK, LOCAL_RANK and
    WORLD_SIZE are set. device: "cpu", or "cuda" with the rank's device current. transport: "gloo"
    on the CPU; "nccl" (the default on "cuda": each rank needs a device of its own) or "staged"
    (ranks share devices, collectives are gloo's). timeout: seconds for `fn`, without the start.
    Tensors in the result come back on the CPU.

    Raises RankFailure, which names each rank that raised, ended or did not return in time;
    GangStartError if the ranks cannot start; TypeError or ValueError for invalid arguments. All
    processes of the call have ended when it returns.
    """
    spec = call_spec(world_size, timeout, device, transport)
    call = pickled_call(fn, args)
    with WarmPool.lock:
        gang = Gang(WarmPool.get(), spec, call=(CALL, call))
        try:
            failed, values = _run(gang, timeout)
        except BaseException as error:
            gang.abandon()
            if not isinstance(error, GangStartError):  # an interrupt: leave no process behind
                shutdown()
            raise
    if failed:
        raise RankFailure(failed, world_size)
    return [pickle.loads(value) for value in values]  # noqa: S301 - written by our own ranks


def call_spec(
    world_size: int,
    timeout: float,
    device: str,
    transport: str | None,
    devices: tuple[int, ...] = (),
) -> GangSpec:
    """Return the kind of gang that runs functions. Raises ValueError as `check_arguments`.

    transport: None for the first that the device has. devices: GPUs for ranks in turn; none: all.
    """
    check_arguments(world_size, timeout, device, transport)
    return GangSpec(
        world_size=world_size,
        device=device,
        transport=transport or TRANSPORTS[device][0],
        options={},
        devices=devices if device != "cpu" else (),
    )


def check_arguments(world_size: int, timeout: float, device: str, transport: str | None) -> None:
    """Raise ValueError, which names the wrong argument of a call and what it may be."""
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1, not {world_size}")
    if timeout <= 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
    if device not in TRANSPORTS:
        raise ValueError(f"device must be one of {', '.join(TRANSPORTS)}, not {device!r}")
    if transport is not None and transport not in TRANSPORTS[device]:
        allowed = ", ".join(TRANSPORTS[device])
        raise ValueError(f"transport on {device} must be one of {allowed}, not {transport!r}")


def pickled_call(fn: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """Return the pickled call. Raises TypeError if the ranks could not import it."""
    name = getattr(fn, "__qualname__", repr(fn))
    way_out = "define it at the top level of a module that can be imported"
    inner = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    if getattr(inner, "__module__", None) == "__main__":
        raise TypeError(f"{name} is defined in __main__, which the ranks cannot import; {way_out}")
    try:
        return pickle.dumps((fn, args))
    except Exception as error:
        message = f"{name} or its arguments cannot be sent to the ranks: {error}; {way_out}"
        raise TypeError(message) from error


def _run(gang: Gang, timeout: float) -> tuple[dict[int, str], list[bytes]]:
    """Return failures by rank, and each rank's value if there are none. Ends the gang."""
    failed: dict[int, str] | None = None
    values: list[bytes] = []
    while True:
        watch([gang])
        for notice in gang.poll():
            if isinstance(notice, GangReady):
                gang.run("call", timeout)
            elif isinstance(notice, Outcome):
                failed = failures_of(notice)
                ranks = () if failed else range(gang.world_size)
                values = [result_file(gang.link.folder, rank).read_bytes() for rank in ranks]
                gang.end("done")
            elif failed is None:
                raise GangStartError(f"the ranks could not start: {notice.reason}\n{notice.log}")
            else:
                return failed, values


def failures_of(outcome: Outcome) -> dict[int, str]:
    """Return what happened on each rank that failed, with its traceback or stack."""
    raised = {
        rank: f"rank {rank}: {answer.traceback}"
        for rank, answer in outcome.answers.items()
        if isinstance(answer, Failed)
    }
    return raised | rank_words(outcome)
