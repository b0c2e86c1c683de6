"""Run several batches of a layer at once: their stages take turns, in the same order on all ranks.

Each batch has a thread, and on a GPU a stream. Only one thread runs at a time; the layer hands over
with `switch` after each of its stages, so that a stage of one batch lies between two of another.
Since the turns depend on nothing but the stages, all ranks enter their collectives in one order.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

T = TypeVar("T")


class _Turns:
    """Let one of `count` threads run at a time, in turn; those that have ended are left out."""

    def __init__(self, count: int) -> None:
        self._changed = threading.Condition()
        self._active = list(range(count))
        self._turn = 0
        self._own = threading.local()

    def enter(self, number: int) -> None:
        """Make the calling thread the one of this number, and wait for its turn."""
        self._own.number = number
        with self._changed:
            self._wait()

    def switch(self) -> None:
        """Let the next thread run, and wait until this one's turn comes again."""
        if not hasattr(self._own, "number"):  # a thread that the layer started
            return
        with self._changed:
            self._advance()
            self._wait()

    def leave(self) -> None:
        """Let the next thread run; this one has ended."""
        with self._changed:
            self._advance()
            self._active.remove(self._own.number)
        del self._own.number

    def _advance(self) -> None:
        later = [number for number in self._active if number > self._own.number]
        self._turn = min(later or self._active)
        self._changed.notify_all()

    def _wait(self) -> None:
        self._changed.wait_for(lambda: self._turn == self._own.number)


_turns: _Turns | None = None


def switch() -> None:
    """Hand over to the next batch inside `overlapped`, and come back at this one's turn."""
    if _turns is not None:
        _turns.switch()


def overlapped(calls: Sequence[Callable[[], T]], device: torch.device) -> list[T]:
    """Return the results of all calls, whose stages take turns. Not reentrant.

    device: of their tensors; on a GPU each call has its own stream, which starts after the work of
    the current one, and which the current one waits for. If calls raise, all others still end, so
    that other ranks do not wait for their collectives; the first exception is then raised.
    """
    global _turns
    turns = _turns = _Turns(len(calls))
    batches = [_Batch(call, number, turns, device) for number, call in enumerate(calls)]
    threads = [threading.Thread(target=batch, name="micro-batch") for batch in batches[1:]]
    try:
        for thread in threads:
            thread.start()
        batches[0]()
    finally:
        for thread in threads:
            thread.join()
        _turns = None
    for batch in batches:
        if batch.error is not None:
            raise batch.error
    return [batch.result for batch in batches]


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class _Batch:
    """Run one call in its thread, as the calling thread would: torch's modes belong to threads."""

    def __init__(
        self, call: Callable[[], Any], number: int, turns: _Turns, device: torch.device
    ) -> None:
        self._call, self._number, self._turns = call, number, turns
        self._inference = torch.is_inference_mode_enabled()
        self._stream = _new_stream(device) if device.type == "cuda" else None
        self._caller = None if self._stream is None else torch.cuda.current_stream(device)
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        self._turns.enter(self._number)
        try:
            with torch.inference_mode(self._inference), self._on_stream():
                self.result = self._call()
        except BaseException as error:  # raised by `overlapped` after all batches have ended
            self.error = error
        finally:
            if self._stream is not None and self._caller is not None:
                self._caller.wait_stream(self._stream)
            self._turns.leave()

    def _on_stream(self) -> AbstractContextManager[Any]:
        if self._stream is None or self._caller is None:
            return nullcontext()
        self._stream.wait_stream(self._caller)
        return torch.cuda.stream(self._stream)
