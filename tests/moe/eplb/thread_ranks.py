"""Ranks that are threads of one process, with collectives through shared lists: cheap and real.

Layers, kernels and transfers are those of processes; only the transport is another.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from moe.collectives import ALONE, Group, Groups

SECONDS = 60  # that a rank waits for another


class World:
    """What the threads share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=SECONDS)
        self._parts: list[Any] = [None] * size
        self.boxes: dict[tuple[int, int], queue.Queue] = defaultdict(queue.Queue)

    def swap(self, rank: int, part: Any) -> list[Any]:
        """Every rank's part, in rank order."""
        self._parts[rank] = part
        self._barrier.wait()
        parts = list(self._parts)
        self._barrier.wait()
        return parts

    def run(self, do):
        """What `do(rank)` returns on each rank, run at the same time."""
        with ThreadPoolExecutor(self.size) as pool:
            return [f.result() for f in [pool.submit(do, rank) for rank in range(self.size)]]


@dataclass(frozen=True)
class Arrival:
    """A message that `wait` writes where it is to be received."""

    box: queue.Queue
    room: torch.Tensor

    def wait(self) -> None:
        self.room.copy_(self.box.get(timeout=SECONDS))


@dataclass(frozen=True)
class Sent:
    def wait(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class ThreadGroup(Group):
    """A group of all threads."""

    world: World

    def all_gather(self, x):
        return torch.cat(
            [part.view(x.dtype) for part in self.world.swap(self.rank, x.contiguous())]
        )

    def all_reduce(self, x):
        return torch.stack(self.world.swap(self.rank, x.clone())).sum(dim=0)

    def reduce_scatter(self, x):
        return self.all_reduce(x).chunk(self.size)[self.rank].clone()

    def send(self, x, to):
        self.world.boxes[self.rank, to].put(x)  # not a copy: it must stay as it is
        return Sent()

    def receive(self, x, source):
        return Arrival(self.world.boxes[source, self.rank], x)


def group_of(world: World, rank: int) -> ThreadGroup:
    return ThreadGroup(handle=object(), size=world.size, rank=rank, world=world)


def groups_of(world: World, rank: int) -> Groups:
    """The groups of a layout of DP ranks only."""
    return Groups(gather=group_of(world, rank), tp=ALONE)
