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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_SLACK = 256 << 20  # bytes by which the use of other programs may vary
_STEP = 16 << 20  # bytes by which a use must fall to count as falling
_STEADY = 0.5  # seconds without a fall after which a shared device's memory counts as released


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


def wait_until_free(
    before: list[int], limit: float, *, devices: Collection[int] = (), shared: bool = False
) -> float:
    """Wait until these devices use no more bytes than `before`; return the seconds waited.

    devices: indices; all of them by default. shared: other gangs use the devices, too, and may take
    memory meanwhile, so that also a use counts as free that no longer falls. Give up after `limit`
    seconds, as another program may have taken the memory.
    """
    start = fell = time.monotonic()
    lowest: list[int] = []
    while (waited := time.monotonic() - start) < limit:
        now = _of(devices, used() if before else [])
        if all(b <= a + _SLACK for a, b in zip(_of(devices, before), now, strict=False)):
            break
        if not lowest or any(b + _STEP < a for a, b in zip(lowest, now, strict=False)):
            lowest, fell = now, time.monotonic()
        if shared and time.monotonic() - fell > _STEADY:
            break
        time.sleep(0.02)
    return waited


def _of(devices: Collection[int], values: list[int]) -> list[int]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
    if not all(word.strip().isdigit() for word in visible):
        return values  # named by UUID: torch's numbers are not known here
    return [value for index, value in enumerate(values) if not devices or index in devices]
