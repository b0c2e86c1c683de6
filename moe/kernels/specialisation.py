"""Name the binary of a launch in one line: kernel, types of tensors, compile-time arguments.

    _combine(bfloat16 float32 int32 bfloat16) [SLOTS=2 ROWS=8 WIDE=64]

In parentheses are the choices that decide which code a kernel runs; in brackets the sizes of tiles
and loops, and the launch options. Interpreted kernels have other tiles than a chip's, so that a run
on a CPU is compared with a chip by the part before the brackets.
"""

from __future__ import annotations

from typing import Any

import torch

# Integers that choose between pieces of code. All other integers are sizes.
_CHOICES = frozenset({"GROUP", "HALVES", "PACKING", "SCORES_OF", "SPAN", "WIDTH"})
_known: dict[tuple[Any, ...], str] = {}


def specialisation_of(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> str:
    """Return the line of a launch. args: positional ones, tensors, None and numbers.

    A tensor that is None is `-`: the kernel leaves out what it is for. Numbers are not in the line.
    """
    types = tuple(t if t is None else t.dtype for t in args if t is None or _is_tensor(t))
    key = (kernel.__name__, types, *options.items())
    line = _known.get(key)
    if line is None:
        line = _known[key] = _line(kernel.__name__, types, options)
    return line


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _line(name: str, types: tuple[torch.dtype | None, ...], options: dict[str, Any]) -> str:
    words = ["-" if t is None else str(t).removeprefix("torch.") for t in types]
    choices = [f"{key}={value}" for key, value in options.items() if _is_choice(key, value)]
    sizes = [f"{key}={value}" for key, value in options.items() if not _is_choice(key, value)]
    parts = "; ".join(filter(None, (" ".join(words), " ".join(choices))))
    return f"{name}({parts})" + (f" [{' '.join(sizes)}]" if sizes else "")


def _is_choice(name: str, value: Any) -> bool:
    """Return whether a compile-time argument decides which code runs."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return name in _CHOICES or not is_integer
