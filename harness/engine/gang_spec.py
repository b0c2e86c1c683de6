"""Describe a gang: its ranks, where they run, and what they import. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.engine.messages import RankInit

PRELOAD = ("torch", "torch.distributed", "numpy", "triton", "triton.language", "harness.worker")


@dataclass(frozen=True, kw_only=True)
class GangSpec:
    """The description of a gang. Gangs with equal specs are interchangeable."""

    world_size: int
    device: str  # cpu, cuda
    transport: str  # gloo, nccl, staged
    executor: str = ""  # see RankInit.executor
    options: dict[str, Any]
    ranks_at_once: int = 1  # see RankInit
    devices: tuple[int, ...] = ()  # see RankInit
    device_ranks: int = 1  # see RankInit
    place: int = 0  # as of Share
    preload: tuple[str, ...] = PRELOAD

    @property
    def init(self) -> RankInit:
        return RankInit(
            device=self.device,
            transport=self.transport,
            executor=self.executor,
            options=self.options,
            ranks_at_once=self.ranks_at_once,
            devices=list(self.devices),
            device_ranks=self.device_ranks,
        )


@dataclass(frozen=True, kw_only=True)
class HostPart:
    """The ranks of a gang on several hosts that are on this one. env: additions for them."""

    first_rank: int
    local_size: int
    rendezvous: str  # see RankInit
    env: dict[str, str]
