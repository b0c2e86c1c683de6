"""Read the memory in use on each device, without torch and without creating a context.

A killed process's memory is released some time after its end; a gang that starts too early would
run out of memory.
"""

from __future__ import annotations

import ctypes
import functools
import os
import time
from pathlib import Path

_SLACK = 256 << 20  # bytes by which the use of other programs may vary


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


@functools.cache
def _nvml() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def _visible(count: int) -> list[int]:
    """Return NVML's indices of the visible devices; all if they are listed by UUID."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(range(count))
    numbers = [int(part) for part in named.split(",") if part.strip().isdigit()]
    return [number for number in numbers if number < count] or list(range(count))


def _nvidia(library: ctypes.CDLL) -> list[int]:
    count = ctypes.c_uint()
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    used = []
    for index in _visible(count.value):
        handle, memory = ctypes.c_void_p(), _Memory()
        has_handle = library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0
        if has_handle and library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
            used.append(int(memory.used))
    return used


def used() -> list[int]:
    """Return the bytes in use on each device; empty if no device can be queried."""
    library = _nvml()
    if library is not None:
        return _nvidia(library)
    cards = sorted(Path("/sys/class/drm").glob("card*/device/mem_info_vram_used"))
    return [int(card.read_text()) for card in cards]


def wait_until_free(before: list[int], limit: float) -> float:
    """Wait until no device uses more bytes than `before`; return the seconds waited.

    Give up after `limit` seconds, as another program may have taken the memory.
    """
    start = time.monotonic()
    while (waited := time.monotonic() - start) < limit:
        now = used() if before else []
        if all(b <= a + _SLACK for a, b in zip(before, now, strict=False)):
            break
        time.sleep(0.02)
    return waited
