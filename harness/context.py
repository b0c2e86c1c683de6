"""What an executor knows about the rank that it runs in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def _silent(_text: str) -> None:
    """For contexts without a controller."""


@dataclass(frozen=True, kw_only=True)
class RankContext:
    """One rank of a gang, with its process group already up (`torch.distributed`'s default)."""

    rank: int
    world_size: int
    device: torch.device
    transport: str  # gloo (cpu), nccl (each rank owns a device), staged (gloo through the host)
    options: dict[str, Any] = field(default_factory=dict)  # RunOptions.rank_options
    caches: dict[Any, Any] = field(default_factory=dict)  # lives as long as the gang
    say: Callable[[str], None] = _silent  # what the rank is doing; shown when it hangs or dies
