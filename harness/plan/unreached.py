"""Name the values of axes that no case of a suite has.

A certificate is about the values that a suite lists. One that no block lists is in no combination,
so that nothing else shows its absence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.matrix.axis import axes_of
from harness.matrix.case import MoETestConfig
from moe import families

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.matrix.axis import Axis


def unreached(cases: Iterable[MoETestConfig]) -> dict[str, tuple[str, ...]]:
    """Return the names that no case has by axis, in their order; axes without any are left out.

    Of axes whose values are words, names of a table, or true and false. Numbers have no end.
    """
    cases = tuple(cases)
    missing = {name: _unused(axis, cases) for name, axis in axes_of(MoETestConfig).items()}
    return {name: values for name, values in missing.items() if values}


def _unused(axis: Axis, cases: tuple[MoETestConfig, ...]) -> tuple[str, ...]:
    used = {_text(getattr(case, axis.name)) for case in cases}
    return tuple(name for name in _names(axis) if name not in used)


def _names(axis: Axis) -> tuple[str, ...]:
    """Return all names that an axis can have; none if they are numbers."""
    if axis.kind == "bool":
        return ("false", "true")
    if axis.family is None:
        return axis.choices
    return (*axis.extra_names, *families.table(axis.family).rows)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
