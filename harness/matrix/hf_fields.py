"""Typed access to the fields of a `config.json`: names of one meaning, and one-line errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import UsageError
from harness.matrix.axis import LARGEST, SMALLEST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

_LARGEST = 2**31 - 1
_SHOWN = 60  # characters of a value in an error


@dataclass(kw_only=True)
class Fields:
    """The fields of one section of a file. asked: names that were asked for, present or not."""

    path: str  # of the file
    values: dict[str, Any]
    asked: set[str] = field(default_factory=set)

    # Each of these returns the value under one of the names, None if no name has a value. They
    # raise UsageError for a value of another type, and for two names that disagree.

    def whole(self, *names: str, least: int = 1) -> int | None:
        """Return a whole number of at least `least`."""
        rule = f"a whole number from {least} to {_LARGEST}"
        return self._one(names, lambda value: _whole(value, least), rule)

    def number(self, *names: str) -> float | None:
        """Return a number above 0."""
        return self._one(names, _positive, "a number above 0")

    def factor(self, *names: str) -> float | None:
        """Return a number that an axis of a case can have."""
        rule = f"a number from {SMALLEST:g} to {LARGEST:g}"
        return self._one(names, _of_an_axis, rule)

    def flag(self, *names: str) -> bool | None:
        """Return true or false."""
        return self._one(names, lambda v: v if isinstance(v, bool) else None, "true or false")

    def word(self, *names: str) -> str | None:
        """Return a text that is not empty."""
        return self._one(names, lambda v: v if isinstance(v, str) and v else None, "a word")

    def section(self, name: str) -> dict[str, Any] | None:
        """Return an object."""
        return self._one((name,), lambda v: v if isinstance(v, dict) else None, "an object {...}")

    def sizes(self, name: str) -> list[int] | None:
        """Return a list of whole numbers."""
        return self._one((name,), _sizes, "a list of whole numbers")

    def needed(self, value: T | None, text: str) -> T:
        """Return a value. Raises UsageError with this text if it is None."""
        if value is None:
            raise self.error(text)
        return value

    def error(self, text: str) -> UsageError:
        """Return an error that names the file."""
        return UsageError(f"--model {self.path}: {text}")

    def _one(self, names: Sequence[str], read: Callable[[object], T | None], rule: str) -> T | None:
        self.asked.update(names)
        named: list[tuple[str, T]] = []
        for name in names:
            raw = self.values.get(name)
            value = None if raw is None else read(raw)
            if raw is not None and value is None:
                raise self.error(f"{name} must be {rule}, not {shown(raw)}")
            if value is not None:
                named.append((name, value))
        for name, value in named[1:]:
            if value != named[0][1]:
                raise self.error(f"{named[0][0]} is {named[0][1]}, but {name} is {value}")
        return named[0][1] if named else None


def shown(value: object) -> str:
    """Return a value as short text of one line for an error."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _whole(value: object, least: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if least <= value <= _LARGEST else None


def _positive(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value <= _LARGEST and math.isfinite(value) else None


def _of_an_axis(value: object) -> float | None:
    number = _positive(value)
    return number if number is not None and SMALLEST <= number <= LARGEST else None


def _sizes(value: object) -> list[int] | None:
    if not isinstance(value, list):
        return None
    sizes = [_whole(item, 1) for item in value]
    return None if None in sizes else [size for size in sizes if size is not None]
