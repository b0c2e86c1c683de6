"""Observe which Triton kernels are launched: this project's in detail, all others by their names.

A kernel of this project is launched by `moe.kernels.launch`, which notes it here. Any other kernel
is noticed where Triton runs it, compiled or interpreted, also below an autotuner.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

if TYPE_CHECKING:
    from collections.abc import Iterator

_observers: list[dict[str, None]] = []
_is_ours = False  # whether a launch that has been noted is under way


@contextmanager
def observed() -> Iterator[dict[str, None]]:
    """Yield the lines of all launches inside, each once, as keys.

    A line is `specialisation_of` a kernel of this project, and `name()` of another one. May be
    nested. Launches of other threads count, too; those that `torch.compile` traces do not.
    """
    lines: dict[str, None] = {}
    _observers.append(lines)
    try:
        with _noticing():
            yield lines
    finally:
        _observers[:] = [other for other in _observers if other is not lines]


def is_observed() -> bool:
    """Return whether a launch is to be noted."""
    return bool(_observers) and not torch.compiler.is_compiling()


@contextmanager
def noted(line: str) -> Iterator[None]:
    """Note a launch, which happens inside."""
    global _is_ours
    _note(line)
    before, _is_ours = _is_ours, True
    try:
        yield
    finally:
        _is_ours = before


def _note(line: str) -> None:
    for lines in _observers:
        lines[line] = None


@contextmanager
def _noticing() -> Iterator[None]:
    """Let both classes of kernels note what they run; the outermost observer changes them."""
    if len(_observers) > 1:
        yield
        return
    real = {kind: kind.run for kind in (JITFunction, InterpretedFunction)}
    for kind, run in real.items():
        kind.run = _noticed(run)
    try:
        yield
    finally:
        for kind, run in real.items():
            kind.run = run


def _noticed(run: Any) -> Any:
    """Return the method `run` of a class of kernels, which notes the kernel first."""

    @functools.wraps(run)
    def running(self: Any, *args: Any, warmup: bool = False, **options: Any) -> Any:
        if not _is_ours and not warmup and is_observed():
            _note(f"{self.fn.__name__}()")
        return run(self, *args, warmup=warmup, **options)

    return running
