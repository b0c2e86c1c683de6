"""Remember the results of needs by the values of the axes that they read.

If the axes of a case have values that occurred before, the need is not evaluated again and the
case's layer spec is not built. What a rule reads that declares nothing, an `AxesReader` tells. No
torch.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING

from harness.matrix.case import AXES, LAYOUT_AXES
from moe.errors import MoEError
from moe.spec import LayerSpec, first_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from harness.matrix.case import MoETestConfig
    from moe.spec import Need, Reason

FIELDS = tuple(field.name for field in dataclasses.fields(LayerSpec))
# Field of the layer -> the axes it is made from; other fields have the name of their axis.
_AXES = {
    "hidden": ("k",),
    "intermediate": ("n",),
    "scheme": ("quant",),
    "padding": ("padding", "call"),
    "pads": ("quant", "layer"),
    "padded": (),  # computed when the layer is built
    "placed": (),  # computed when experts are moved
    "shared_scheme": ("shared_quant",),
    "layout": (
        *("dp_size", "tp_size", "use_ep", "sequence_parallel"),
        *("pcp_size", "moe_tp_size", "expert_dp_size"),
    ),
}

ALL = frozenset(AXES)
# Properties of a case that rules read -> the axes that they are made from. A rule that reads any
# other, such as `layer_spec`, would be decided by all axes, and searches would not end.
_MADE_FROM = dict.fromkeys(("layout", "world_size"), frozenset(LAYOUT_AXES))


def axes_read(needs: Iterable[Need]) -> tuple[str, ...]:
    """Return the axes that these needs read.

    Raises MoEError for a field that no layer spec has.
    """
    read: set[str] = set()
    for need in needs:
        read.update(FIELDS if need.reads is None else need.reads)
    unknown = sorted(read - set(FIELDS))
    if unknown:
        fields = ", ".join(FIELDS)
        raise MoEError(
            f"a need reads {unknown[0]!r}, which no layer spec has; choose from {fields}"
        )
    return axes_of(read)


def axes_of(fields: Container[str]) -> tuple[str, ...]:
    """Return the axes that these fields of the layer are made from."""
    return tuple(axis for name in FIELDS if name in fields for axis in _AXES.get(name, (name,)))


class AxesReader:
    """Stand in for a case, and keep which of its axes are read."""

    def __init__(self, case: MoETestConfig) -> None:
        self._case = case
        self.axes: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> object:
        self.axes |= {name} if name in AXES else _MADE_FROM.get(name, ALL)
        return getattr(self._case, name)


class Remembered:
    """Find the first refusal among some needs, once per values of `axes`."""

    def __init__(self, needs: tuple[Need, ...]) -> None:
        self.needs = needs
        self.axes = axes_read(needs)
        self._values: Callable[[MoETestConfig], object] = (
            attrgetter(*self.axes) if self.axes else _no_values
        )
        self._answers: dict[object, Reason | None] = {}

    def __call__(self, case: MoETestConfig) -> Reason | None:
        """Return the reason of the first need that does not hold, or None."""
        values = self._values(case)
        try:
            return self._answers[values]
        except KeyError:
            reason = self._answers[values] = first_refusal(self.needs, case.layer_spec)
            return reason

    def refusing(self, case: MoETestConfig) -> Need:
        """Return the first need that does not hold for a refused case."""
        return next(need for need in self.needs if need.refuse(case.layer_spec) is not None)


def _no_values(_: MoETestConfig) -> None:
    """Return the key of needs that read nothing."""
