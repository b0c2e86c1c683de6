"""Spare Triton's interpreter work that changes no result; it takes half of an interpreted launch.

Triton 3.6 to 3.9 replace the functions of `triton.language` by interpreted ones once for a launch,
and then again for each call of a function inside the kernel, which finds all of them replaced. They
also compute whether sums and products of integers overflow, for an assertion that is left out
unless `debug` is set. A version that works in another way is left as it is.
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import triton.language as tl
from triton.runtime import interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATCH, _BUILDER = "_patch_lang", "interpreter_builder"


class _Nothing:
    """Stand for the scope of a replacement that had nothing to do."""

    def restore(self) -> None:
        """Leave everything as it is."""


@contextmanager
def spared() -> Iterator[None]:
    """Interpret one launch without repeated work. Not thread-safe."""
    patch: Any = getattr(interpreter, _PATCH, None)
    builder: Any = getattr(interpreter, _BUILDER, None)
    options: Any = getattr(builder, "options", None)
    try:
        if patch is not None:
            setattr(interpreter, _PATCH, _once(patch))
        if _has_idle_checks(options):
            builder.options = dataclasses.replace(options, sanitize_overflow=False)
        yield
    finally:
        if patch is not None:
            setattr(interpreter, _PATCH, patch)
        if options is not None:
            builder.options = options


def _once(patch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `patch` for functions that see a language module which no earlier one saw.

    The kernel comes first: its scope undoes the replacements when the launch ends.
    """
    done: set[str] = set()

    def patch_new(function: Any) -> Any:
        seen = _language_modules(function)
        if seen <= done:
            return _Nothing()
        done.update(seen)
        return patch(function)

    return patch_new


@cache
def _language_modules(function: Any) -> frozenset[str]:
    """Return the names of the modules in a function's globals whose functions are replaced."""
    values = function.__globals__.values()
    return frozenset(v.__name__ for v in values if v is tl or v is tl.core)


def _has_idle_checks(options: Any) -> bool:
    """Return whether overflow is computed although nothing looks at it."""
    has_checks: bool = getattr(options, "sanitize_overflow", False)
    return has_checks and not getattr(options, "debug", True)
