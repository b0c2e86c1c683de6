"""List the cases that are simpler than a failing one by one field. No torch."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from harness.commands import row_choices
from harness.matrix.case import AXES
from harness.matrix.exactness import is_bitwise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.commands.fuzz_space import Space
    from harness.matrix.case import MoETestConfig


def simpler(space: Space, case: MoETestConfig) -> Iterator[MoETestConfig]:
    """Yield the case with one field made simpler, if that runs; simplest values first.

    Axes with few values come first, and of equally many the last declared: switches before sizes.
    Layouts of smaller worlds come last.
    """
    for changed in chain(_simpler_fields(space, case), _smaller_worlds(space, case)):
        if changed.exact == is_bitwise(changed) and space.runs(changed):
            yield changed


def _simpler_fields(space: Space, case: MoETestConfig) -> Iterator[MoETestConfig]:
    last_first = [axis for axis in AXES.values() if axis.name not in space.fixed][::-1]
    for axis in sorted(last_first, key=lambda axis: len(axis.simpler_values)):
        now, values = getattr(case, axis.name), axis.simpler_values
        for value in values[: values.index(now)] if now in values else values:
            yield case.replace(**{axis.name: value})


def _smaller_worlds(space: Space, case: MoETestConfig) -> Iterator[MoETestConfig]:
    row = space.row_of(case.experts)
    for layout in dict.fromkeys(row_choices.layouts_of(space.max_world, row, space.fixed)):
        if layout.world_size < case.world_size:
            yield case.replace(**vars(layout))
