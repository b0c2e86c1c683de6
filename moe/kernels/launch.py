"""How a kernel is started: compiled on a device, or interpreted on the CPU.

Whether kernels are interpreted is fixed when triton is first imported (TRITON_INTERPRET=1), for
the whole process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton

from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager


@triton.jit
def _probe():
    pass


INTERPRETED = not isinstance(_probe, triton.runtime.JITFunction)  # of every kernel in this process


def launch(
    kernel: Any, grid: Sequence[int], device: torch.device, /, *args: Any, **kw: Any
) -> None:
    """Start `kernel` on `grid` programs; nothing at all when one of the grid's sizes is 0.

    device: where the tensors among `args` are. Raises MoEError for tensors on the CPU when
    kernels are compiled.
    """
    if device.type == "cpu" and not INTERPRETED:
        raise MoEError(
            f"a Triton kernel got tensors on device {str(device)!r}, but kernels are compiled in "
            "this process; set TRITON_INTERPRET=1 before triton is imported, or move them to a GPU"
        )
    if 0 in grid:
        return
    with _on(device):
        kernel[tuple(grid)](*args, **kw)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes `device` current; in the interpreter numpy's warnings on NaN and Inf are silenced."""
    if INTERPRETED:
        return np.errstate(all="ignore")
    return torch.cuda.device(device)
