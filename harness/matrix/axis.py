"""`Axis`: the properties of one field of the case, declared with the field.

Value checks, ids, the keys of the matrix file and their JSON Schema, the cases that `fuzz` draws
and shrinks, the comparison across layouts and docs/axes.md are derived from axes.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

SMALLEST, LARGEST = 0.001, 1000.0  # numbers that Python writes without an exponent
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:]*\Z")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One field of the case. `axis` declares it; `axes_of` adds the last three values."""

    token: str  # name in ids
    description: str  # one line, with the unit
    choices: tuple[str, ...] = ()  # the allowed words
    family: str | None = None  # values are names in this family's table, or "pkg.mod:Class"
    extra_names: tuple[str, ...] = ()  # names allowed besides those in the table
    minimum: int = 1  # smallest allowed number
    # The key of the matrix file that sets several axes together: a list such as [m, n, k] if they
    # have no defaults, otherwise a mapping by tokens. None: the axis has its own key.
    group: str | None = None
    outputs_agree: bool = False  # whether outputs for the same tokens agree across its values
    # Values to try when shrinking a failing case, simplest first. None: the choices, or default.
    simplest: tuple[Any, ...] | None = None
    # Values that random cases take, repeated for a higher weight. Empty: all alike.
    random_values: tuple[Any, ...] = ()
    name: str = ""  # of the field
    kind: str = ""  # int, float, bool or str
    default: Any = None  # None: the field is required

    @property
    def required(self) -> bool:
        return self.default is None

    @property
    def simpler_values(self) -> tuple[Any, ...]:
        """Return the values to try when shrinking, simplest first."""
        if self.simplest is not None:
            return self.simplest
        return self.choices or (() if self.required else (self.default,))


def axis(token: str, description: str, *, default: Any = dataclasses.MISSING, **fields: Any) -> Any:
    """Declare a field of a case as an axis. fields: further fields of `Axis`."""
    declared = Axis(token=token, description=description, **fields)
    return field(default=default, metadata={"axis": declared})


def axes_of(kind: type[Any]) -> dict[str, Axis]:
    """Return the axes of a case class by field name, in the order of the fields."""
    return {
        f.name: dataclasses.replace(
            f.metadata["axis"],
            name=f.name,
            kind=str(f.type),
            default=None if f.default is dataclasses.MISSING else f.default,
        )
        for f in dataclasses.fields(kind)
    }


def file_keys(axes: dict[str, Axis]) -> dict[str, tuple[Axis, ...]]:
    """Return each key of the matrix file with the axes that it sets."""
    keys: dict[str, tuple[Axis, ...]] = {}
    for axis in axes.values():
        key = axis.group or axis.name
        keys[key] = (*keys.get(key, ()), axis)
    return keys


def value_error(axis: Axis, value: object) -> str | None:
    """Return what is wrong with `value` for this axis, or None. Config files use it as well."""
    if type(value).__name__ != axis.kind:
        return f"{axis.name} must be {axis.kind}, not {value!r}"
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        rule = f"{axis.name} must be a number from 0.001 to 1000, not {value!r}"
        return None if SMALLEST <= value <= LARGEST else rule
    if isinstance(value, int):
        least = axis.minimum
        return None if value >= least else f"{axis.name} must be at least {least}, not {value}"
    if axis.choices:
        rule, fits = f"one of {', '.join(axis.choices)}", value in axis.choices
    else:
        rule, fits = "a name of [A-Za-z0-9_.:]", bool(_NAME.match(str(value)))
    return None if fits else f"{axis.name} must be {rule}, not {value!r}"
