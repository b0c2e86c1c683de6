"""The `gang` fixture's object: calls functions in ranks that stay warm from test to test.

`parallel_launch` gives each call fresh ranks. Here a call reuses ranks, of an earlier test even, if
they are fit: after each test they are asked whether it left a stray collective behind, or torch's
defaults changed.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, TypeVar

from harness.engine.gang_notices import State
from harness.engine.rank_bootstrap import CALL, result_file
from harness.engine.warm_gangs import settle
from harness.testing.parallel_launch import (
    RankFailure,
    call_spec,
    check_arguments,
    failures_of,
    pickled_call,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.engine.gang import Gang
    from harness.engine.warm_gangs import WarmGangs

__tracebackhide__ = True  # pytest shows the test's line, not these

T = TypeVar("T")
TIMEOUT = 60.0  # seconds that a call may take, unless the mark or the call says otherwise


class FunctionGang:
    """Ranks for one test. world_size: number of ranks. timeout: seconds a call may take."""

    def __init__(
        self,
        gangs: WarmGangs,
        world_size: int,
        *,
        device: str = "cpu",
        transport: str | None = None,
        timeout: float = TIMEOUT,
        devices: tuple[int, ...] = (),
    ) -> None:
        """Describe the ranks; the first call starts them. devices: GPUs for ranks in turn; none:
        all of them. The other arguments are those of `parallel_launch`. Raises ValueError.
        """
        self._spec = call_spec(world_size, timeout, device, transport, devices)
        self.world_size, self.timeout = world_size, timeout
        self._gangs = gangs
        self._used: Gang | None = None

    def __call__(self, fn: Callable[..., T], *args: Any, timeout: float | None = None) -> list[T]:
        """Run `fn(*args)` in every rank at once and return their values in rank order.

        timeout: seconds, in place of the test's own. Raises RankFailure, after which the next call
        gets fresh ranks; GangStartError, TypeError and ValueError as `parallel_launch`.
        """
        limit = self.timeout if timeout is None else timeout
        check_arguments(self.world_size, limit, self._spec.device, self._spec.transport)
        call = pickled_call(fn, args)
        gang = self._used = self._gangs.ready(self._spec)
        (gang.link.folder / CALL).write_bytes(call)
        failed = failures_of(self._gangs.run(gang, "call", limit))
        if failed:
            self._gangs.retire(gang, "a call failed")
            raise RankFailure(failed, self.world_size)
        files = [result_file(gang.link.folder, rank) for rank in range(self.world_size)]
        return [pickle.loads(file.read_bytes()) for file in files]  # noqa: S301 - of our own ranks

    def release(self) -> None:
        """Have the ranks examined after the test; they end if they are not as they were."""
        gang, self._used = self._used, None
        if gang is not None:
            settle(gang)
            if gang.state is State.IDLE:
                gang.probe("after a test")
