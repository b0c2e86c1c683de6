"""How a kernel is started: compiled on a device, interpreted on the CPU, or only written down.

Whether kernels are interpreted is fixed when triton is first imported (TRITON_INTERPRET=1), for
the whole process. `recording` lets the same calls run on meta tensors without any device: what
they would start is kept, and `moe.kernels.aot_compile` compiles it for chips that are not here.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton

from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager


@triton.jit
def _probe():
    pass


FP_FUSION = True  # a * b + c in one rounding; said aloud, as Triton's default is about to change
INTERPRETED = not isinstance(_probe, triton.runtime.JITFunction)  # of every kernel in this process


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A start of `kernel` that was written down: positional and keyword arguments as given."""

    kernel: Any
    args: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """launches: in order. shared_bytes: of the chip that they are meant for."""

    launches: list[Launch]
    shared_bytes: int


_recording: Recording | None = None


@contextmanager
def recording(shared_bytes: int) -> Iterator[list[Launch]]:
    """Inside, launches are written down and nothing runs. Not for two threads at once."""
    global _recording
    before, _recording = _recording, Recording(launches=[], shared_bytes=shared_bytes)
    try:
        yield _recording.launches
    finally:
        _recording = before


def launch(
    kernel: Any, grid: Sequence[int], device: torch.device, /, *args: Any, **options: Any
) -> None:
    """Start `kernel` on `grid` programs; nothing at all when one of the grid's sizes is 0.

    device: where the tensors among `args` are. Raises MoEError for tensors on the CPU when
    kernels are compiled.
    """
    if _recording is not None:
        _recording.launches.append(Launch(kernel=kernel, args=args, options=options))
        return
    if device.type == "cpu" and not INTERPRETED:
        raise MoEError(
            f"a Triton kernel got tensors on device {str(device)!r}, but kernels are compiled in "
            "this process; set TRITON_INTERPRET=1 before triton is imported, or move them to a GPU"
        )
    if 0 not in grid:
        with _on(device):
            kernel[tuple(grid)](*args, enable_fp_fusion=FP_FUSION, **options)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes `device` current; in the interpreter numpy's warnings on NaN and Inf are silenced."""
    if INTERPRETED:
        return np.errstate(all="ignore")
    return torch.cuda.device(device)


def shared_bytes(device: torch.device) -> int:
    """Shared memory (LDS) that one program may use on `device`; there is no limit interpreted."""
    if _recording is not None:
        return _recording.shared_bytes
    return 1 << 62 if INTERPRETED else _shared_bytes(device.index or 0)


@cache
def _shared_bytes(index: int) -> int:
    properties = triton.runtime.driver.active.utils.get_device_properties(index)
    return int(properties["max_shared_mem"])
