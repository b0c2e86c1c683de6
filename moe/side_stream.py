"""Run the shared experts on a stream of their own, beside the routed experts.

Inside `used` what `start` is given runs on that stream: after the work that the current one has at
that time, and before what the current one does with the result. Outside it runs when its result is
asked for, in the caller's stream.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

_side: torch.cuda.Stream | None = None


@contextmanager
def used(stream: torch.cuda.Stream) -> Iterator[None]:
    """Let `start` use this stream inside. Not thread-safe."""
    global _side
    before, _side = _side, stream
    try:
        yield
    finally:
        _side = before


def start(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    """Return a function that returns `function(x)`, which runs beside what the caller does next."""
    if _side is None:
        return lambda: function(x)
    return _started(function, x, _side)


def _started(
    function: Callable[[Tensor], Tensor], x: Tensor, side: torch.cuda.Stream
) -> Callable[[], Tensor]:
    side.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(side):
        result = function(x)
    x.record_stream(side)

    def waited() -> Tensor:
        current = torch.cuda.current_stream(x.device)
        current.wait_stream(side)
        result.record_stream(current)
        return result

    return waited
