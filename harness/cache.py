"""What a gang keeps from case to case: weights, shards, scales, groups, under a byte budget.

The least recently used goes first. Process groups are pinned: torch cannot make them again in
place, and they cost next to nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from harness.context import RankContext

T = TypeVar("T")

# Each rank's share of its host or device, so that the plan's estimate stays true.
BUDGET_BYTES = {"cpu": 1 << 30, "cuda": 12 << 30}


@dataclass(frozen=True, kw_only=True)
class _Kept:
    value: Any
    size: int
    pinned: bool


def cached(
    context: RankContext, key: Hashable, make: Callable[[], T], *, pinned: bool = False
) -> T:
    """The value made for `key` before in this gang, or a new one."""
    kept = context.caches.pop(key, None)
    if kept is None:
        keep(context, key, made := make(), pinned=pinned)
        return made
    context.caches[key] = kept  # last: most recently used
    value: T = kept.value
    return value


def keep(context: RankContext, key: Hashable, value: Any, *, pinned: bool = False) -> None:
    """For `cached` to find, whatever else must go for it."""
    kept = _Kept(value=value, size=size_of(value), pinned=pinned)
    _make_room(context.caches, kept.size, BUDGET_BYTES[context.device.type])
    context.caches[key] = kept


def _make_room(store: dict[Any, _Kept], wanted: int, budget: int) -> None:
    total = sum(kept.size for kept in store.values())
    for key in [k for k, kept in store.items() if not kept.pinned]:
        if total + wanted <= budget:
            return
        total -= store.pop(key).size


def size_of(value: Any) -> int:
    """Bytes of all tensors in it."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(size_of(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(size_of(item) for item in value)
    if dataclasses.is_dataclass(value):
        return sum(size_of(getattr(value, f.name)) for f in dataclasses.fields(value))
    return 0
