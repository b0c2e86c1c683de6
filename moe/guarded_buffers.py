"""The one allocator for outputs and workspaces, so that a test can poison what it hands out.

With `poisoned()` on, every buffer starts as NaN (integers: a large number), and a band of known
bytes lies on either side of it. A kernel that reads what nobody wrote then shows NaN, and one
that writes past its end is found by `broken_guards`. It is done here and not by torch's
deterministic-fill flag, because that flag also swaps the algorithms under test.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

GUARD_BYTES = 256  # on each side; keeps a buffer's alignment
_GUARD = 0xA5
_FLOAT_POISON = 0xFF  # NaN in bf16, fp16, f32 and the OCP fp8 kinds
_FNUZ_POISON = 0x80  # the one NaN that the fnuz kinds of fp8 have
_INT_POISON = 0x7F  # large in every width, and never -1, which means padding
_FNUZ = frozenset({torch.float8_e4m3fnuz, torch.float8_e5m2fnuz})

_live: list[Tensor] | None = None  # raw buffers handed out since poisoning began


def empty(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """An uninitialised tensor of `shape`; poisoned and guarded inside `poisoned()`."""
    if _live is None:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    raw = torch.full((size + 2 * GUARD_BYTES,), _GUARD, dtype=torch.uint8, device=device)
    body = raw[GUARD_BYTES : GUARD_BYTES + size]
    body.fill_(_poison(dtype))
    _live.append(raw)
    return body.view(dtype).view(tuple(shape))


def _poison(dtype: torch.dtype) -> int:
    """The byte that fills a buffer of this dtype."""
    if not dtype.is_floating_point:
        return _INT_POISON
    return _FNUZ_POISON if dtype in _FNUZ else _FLOAT_POISON


@contextmanager
def poisoned() -> Iterator[None]:
    """Poison and guard every buffer that `empty` hands out inside. Not for two threads at once."""
    global _live
    before, _live = _live, []
    try:
        yield
    finally:
        _live = before


def broken_guards() -> list[str]:
    """One line for each buffer of the current `poisoned()` whose guard bytes were changed."""
    found = []
    for raw in _live or ():
        for side, band in (("before", raw[:GUARD_BYTES]), ("after", raw[-GUARD_BYTES:])):
            changed = int((band != _GUARD).sum())
            if changed:
                size = raw.numel() - 2 * GUARD_BYTES
                found.append(f"{changed} bytes {side} a buffer of {size} bytes were overwritten")
    return found
