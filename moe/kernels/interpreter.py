"""Spare Triton's interpreter work that changes no result; it takes half of an interpreted launch.

Triton 3.6 to 3.9 replace the functions of `triton.language` by interpreted ones once for a launch,
and then again for each call of a function inside the kernel, which finds all of them replaced. For
the next launch they look for all these functions anew. They also compute whether sums and products
of integers overflow, for an assertion that is left out unless `debug` is set. A version that works
in another way is left as it is. `moe.kernels.interpreter_memory`, `interpreter_tiles` and
`interpreter_replay` spare work of single operations.
"""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import triton.language as tl
from triton.runtime import interpreter

from moe.kernels.interpreter_memory import replacements

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
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements()]
    try:
        for owner, name, replacement in replacements():
            setattr(owner, name, replacement)
        if patch is not None:
            setattr(interpreter, _PATCH, _once(patch))
        if _has_idle_checks(options):
            builder.options = dataclasses.replace(options, sanitize_overflow=False)
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
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
        if done and seen <= done | _left_replaced():
            return _Nothing()
        done.update(seen)
        return _scope_of(patch, function, seen)

    return patch_new


def _left_replaced() -> set[str]:
    """Return the module that Triton never restores after a function inside a kernel saw it.

    All else that such a function has replaced is replaced for the kernel, too.
    """
    return set() if tl.core.is_builtin(tl.core.load) else {tl.core.__name__}


_Change = tuple[Any, str, Any, Any]  # owner, name, value before and after
_changes: dict[tuple[Any, frozenset[str]], tuple[_Change, ...]] = {}  # by patch and modules seen


def _scope_of(patch: Callable[[Any], Any], function: Any, seen: frozenset[str]) -> Any:
    """Replace what `patch` replaces and return the scope that undoes it.

    Replacements are found once; they are found again where something else has changed since.
    """
    known = _changes.get((patch, seen), ())
    if known and all(getattr(o, name, before) is before for o, name, before, _ in known):
        scope: Any = interpreter._LangPatchScope()
        for owner, name, _, after in known:
            scope.set_attr(owner, name, after)
        return scope
    scope = patch(function)
    first = {(o, name): before for o, name, before in reversed(getattr(scope, "_changes", ()))}
    _changes[patch, seen] = tuple(
        (o, name, before, getattr(o, name)) for (o, name), before in first.items()
    )
    return scope


@cache
def _language_modules(function: Any) -> frozenset[str]:
    """Return the names of the modules in a function's globals whose functions are replaced."""
    values = function.__globals__.values()
    return frozenset(v.__name__ for v in values if v is tl or v is tl.core)


def _has_idle_checks(options: Any) -> bool:
    """Return whether overflow is computed although nothing looks at it."""
    has_checks: bool = getattr(options, "sanitize_overflow", False)
    return has_checks and not getattr(options, "debug", True)
