"""Allocate outputs and workspaces, poisoned and guarded on request. All members use it.

Inside `poisoned()` every buffer is filled with NaN (integers: a large number, or 1) and has a guard
band of known bytes on either side. A kernel that reads uninitialised memory then produces NaN, and
one that writes out of bounds is reported by `broken_guards`. torch's deterministic-fill flag is not
used for this, because it also changes the algorithms under test.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

GUARD_BYTES = 256  # on each side; preserves the alignment of the buffer
_GUARD = 0xA5
_FLOAT_POISON = 0xFF  # in every byte: NaN in bf16, fp16, f32 and OCP fp8
_FNUZ_POISON = 0x80  # the only NaN of fnuz fp8
_INT_POISON = 0x7F  # a large number of any width; not -1, which means padding
_INDEX_POISON = 1  # of a row or an expert that there is: a kernel masks numbers that are too large
_INDICES = frozenset({torch.int32, torch.int64})
_FNUZ = frozenset({torch.float8_e4m3fnuz, torch.float8_e5m2fnuz})

_small_indices = False  # whether int32 and int64 are filled with _INDEX_POISON
_live: list[Tensor] | None = None  # raw buffers of the current `poisoned()`; None outside
_earlier: list[str] = []  # messages on buffers of it that were used again


def empty(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return an uninitialised tensor; inside `poisoned()`, a poisoned and guarded one."""
    if _live is None:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    size = guarded_size(math.prod(shape) * dtype.itemsize)
    return view_of(torch.empty(size, dtype=torch.uint8, device=device), shape, dtype)


def is_guarding() -> bool:
    """Return whether buffers are poisoned and guarded now."""
    return _live is not None


def guarded_size(size: int) -> int:
    """Return the bytes that `view_of` needs for a tensor of `size` bytes: with guards, if any."""
    return size if _live is None else size + 2 * GUARD_BYTES


def view_of(raw: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor in memory that may have been used before.

    raw: at least `guarded_size` bytes, uint8. Inside `poisoned()` the tensor is poisoned, and the
    bytes next to it are guarded, whatever an earlier, larger tensor left there.
    """
    size = math.prod(shape) * dtype.itemsize
    if _live is None:
        return raw[:size].view(dtype).view(tuple(shape))
    again = [live for live in _live if live.data_ptr() == raw.data_ptr()]
    for live in again:
        _earlier.extend(_broken(live))
    _live[:] = [live for live in _live if live.data_ptr() != raw.data_ptr()]
    used = raw[: size + 2 * GUARD_BYTES].fill_(_GUARD)
    body = used[GUARD_BYTES : GUARD_BYTES + size]
    _live.append(used)
    if _small_indices and dtype in _INDICES:
        return body.view(dtype).fill_(_INDEX_POISON).view(tuple(shape))
    return body.fill_(_poison(dtype)).view(dtype).view(tuple(shape))


def _poison(dtype: torch.dtype) -> int:
    """Return the byte that fills a poisoned buffer of this dtype."""
    if not dtype.is_floating_point:
        return _INT_POISON
    return _FNUZ_POISON if dtype in _FNUZ else _FLOAT_POISON


@contextmanager
def poisoned(*, small_indices: bool = False) -> Iterator[None]:
    """Poison and guard every buffer that `empty` returns inside. Not thread-safe.

    small_indices: fill integers of 32 and 64 bits with 1 instead of a large number. What is read
    as the number of a row or an expert is then a wrong one, where a large one may be left out.
    """
    global _live, _earlier, _small_indices
    before = _live, _earlier, _small_indices
    _live, _earlier, _small_indices = [], [], small_indices
    try:
        yield
    finally:
        _live, _earlier, _small_indices = before


@contextmanager
def suspended() -> Iterator[None]:
    """Allocate plain buffers inside, also within `poisoned()`: for calls that are only traced once.

    Not thread-safe.
    """
    global _live
    before, _live = _live, None
    try:
        yield
    finally:
        _live = before


def broken_guards() -> list[str]:
    """Return one line per overwritten guard band of the current `poisoned()`; [] outside."""
    messages = list(_earlier)
    for raw in _live or ():
        messages += _broken(raw)
    return messages


def _broken(raw: Tensor) -> list[str]:
    """Return one line per overwritten guard band of one buffer."""
    messages = []
    for side, band in (("before", raw[:GUARD_BYTES]), ("after", raw[-GUARD_BYTES:])):
        changed = int((band != _GUARD).sum())
        if changed:
            size = raw.numel() - 2 * GUARD_BYTES
            messages.append(f"{changed} bytes {side} a buffer of {size} bytes were overwritten")
    return messages
