"""`Axis`: all that there is to know of one field of the case, declared where the field is.

The checks of values, ids, the keys of the matrix file and their JSON Schema, what `fuzz` draws and
how it shrinks, the comparison across layouts and docs/axes.md are derived from these.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:]*\Z")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One field of the case. `axis` declares it; `axes_of` adds the last three values."""

    token: str  # its name in ids
    description: str  # one line, with the unit
    choices: tuple[str, ...] = ()  # the words that it may be
    family: str | None = None  # its values are rows of this family, or "pkg.mod:Class"
    extra_names: tuple[str, ...] = ()  # names that it may be beside the family's rows
    minimum: int = 1  # of a number
    # The key of the matrix file under which it is written with others: a list such as [m, n, k]
    # where they have no defaults, else a mapping by tokens. None: a key of its own.
    group: str | None = None
    outputs_agree: bool = False  # the same tokens have the same outputs for each of its values
    # What a failing case is tried with, simplest first. None: the choices, or the default.
    simplest: tuple[Any, ...] | None = None
    # What random cases take, as often as it stands here. Empty: each value alike.
    random_values: tuple[Any, ...] = ()
    name: str = ""  # of the field
    kind: str = ""  # int, bool or str
    default: Any = None  # None: the field has to be given

    @property
    def required(self) -> bool:
        return self.default is None

    @property
    def simpler_values(self) -> tuple[Any, ...]:
        """What to try in place of a value, simplest first."""
        if self.simplest is not None:
            return self.simplest
        return self.choices or (() if self.required else (self.default,))


def axis(token: str, description: str, *, default: Any = dataclasses.MISSING, **fields: Any) -> Any:
    """Declare a field of a case as an axis; `fields` are further fields of `Axis`."""
    declared = Axis(token=token, description=description, **fields)
    return field(default=default, metadata={"axis": declared})


def axes_of(kind: type[Any]) -> dict[str, Axis]:
    """Each axis of a class of cases by its field's name, in the order of the fields."""
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
    """Each key of the matrix file with the axes that it sets."""
    keys: dict[str, tuple[Axis, ...]] = {}
    for axis in axes.values():
        key = axis.group or axis.name
        keys[key] = (*keys.get(key, ()), axis)
    return keys


def value_error(axis: Axis, value: object) -> str | None:
    """What is wrong with `value` for this axis, or None. Config files use it too."""
    if type(value).__name__ != axis.kind:
        return f"{axis.name} must be {axis.kind}, not {value!r}"
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        least = axis.minimum
        return None if value >= least else f"{axis.name} must be at least {least}, not {value}"
    if axis.choices:
        rule, fits = f"one of {', '.join(axis.choices)}", value in axis.choices
    else:
        rule, fits = "a name of [A-Za-z0-9_.:]", bool(_NAME.match(str(value)))
    return None if fits else f"{axis.name} must be {rule}, not {value!r}"
