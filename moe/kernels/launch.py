"""Launch kernels: compiled on a device, interpreted on the CPU, or only recorded.

Whether kernels are interpreted is decided for the process when triton is first imported
(TRITON_INTERPRET=1). Inside `recording` the same calls run on meta tensors without any device, and
`moe.kernels.aot_compile` compiles the recorded launches for other chips.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton

from moe.errors import MoEError
from moe.kernels import interpreter, launch_observer
from moe.kernels.interpreter_bf16 import chip_arithmetic
from moe.kernels.specialisation import specialisation_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager


@triton.jit
def _probe():
    pass


FP_FUSION = True  # a * b + c with one rounding; explicit, as Triton's default will change
INTERPRETED = not isinstance(_probe, triton.runtime.JITFunction)  # of every kernel in this process


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A recorded launch of `kernel` with its positional and keyword arguments."""

    kernel: Any
    args: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """launches: in order. shared_bytes: shared memory of the chip that they are recorded for."""

    launches: list[Launch]
    shared_bytes: int


_recording: Recording | None = None


@contextmanager
def recording(shared_bytes: int) -> Iterator[list[Launch]]:
    """Record launches instead of running them. Not thread-safe."""
    global _recording
    before, _recording = _recording, Recording(launches=[], shared_bytes=shared_bytes)
    try:
        yield _recording.launches
    finally:
        _recording = before


def launch(
    kernel: Any, grid: Sequence[int], device: torch.device, /, *args: Any, **options: Any
) -> None:
    """Launch `kernel` on `grid` programs; do nothing if a size of the grid is 0.

    device: of the tensors among `args`. Raises MoEError for tensors on the CPU if kernels are
    compiled.
    """
    if _recording is not None:
        if 0 not in grid:
            _recording.launches.append(Launch(kernel=kernel, args=args, options=options))
        return
    check_interpreted(device)
    if 0 not in grid:
        with _on(device), _noted(kernel, args, options):
            kernel[tuple(grid)](*args, enable_fp_fusion=FP_FUSION, **options)


def check_interpreted(device: torch.device) -> None:
    """Raise MoEError for a CPU if kernels are compiled in this process."""
    if device.type == "cpu" and not INTERPRETED:
        raise MoEError(
            f"a Triton kernel got tensors on device {str(device)!r}, but kernels are compiled in "
            "this process; set TRITON_INTERPRET=1 before triton is imported, or move them to a GPU"
        )


def _noted(
    kernel: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> AbstractContextManager[None]:
    """Note the launch that happens inside, if anybody observes launches."""
    if not launch_observer.is_observed():
        return nullcontext()
    return launch_observer.noted(specialisation_of(kernel, args, options))


def runs_kernels(device: torch.device) -> bool:
    """Return whether code that has a kernel and a twin should call the kernel for this device.

    On a GPU and while recording; on a CPU the twin is faster than the interpreter.
    """
    return _recording is not None or device.type != "cpu"


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Make `device` current."""
    return _interpreting() if INTERPRETED else torch.cuda.device(device)


@contextmanager
def launching_released(device: torch.device) -> Iterator[None]:
    """Let code of a package launch one kernel on `device`; interpreted, with a chip's arithmetic.

    Raises MoEError for a CPU if kernels are compiled.
    """
    check_interpreted(device)
    with _on(device), chip_arithmetic() if INTERPRETED else nullcontext():
        yield


@contextmanager
def _interpreting() -> Iterator[None]:
    """Let the interpreter do no needless work; silence numpy's warnings about NaN and Inf."""
    with interpreter.spared(), np.errstate(all="ignore"):
        yield


def shared_bytes(device: torch.device) -> int:
    """Return the bytes of shared memory (LDS) for a program on `device`; no limit interpreted."""
    if _recording is not None:
        return _recording.shared_bytes
    return 1 << 62 if INTERPRETED else _shared_bytes(device.index or 0)


@cache
def _shared_bytes(index: int) -> int:
    properties = triton.runtime.driver.active.utils.get_device_properties(index)
    return int(properties["max_shared_mem"])
