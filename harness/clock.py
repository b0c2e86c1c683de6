"""Where the time of a case goes on one rank, and where it is when the rank hangs."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.context import RankContext


@dataclass
class Clock:
    """Seconds by phase of one case; each is said aloud, for when a rank hangs or dies in it."""

    context: RankContext
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.context.say(name)
        start = time.perf_counter()
        yield
        if self.context.device.type == "cuda":
            torch.cuda.synchronize(self.context.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
