"""From a checked matrix file to cases: each block's product, each point once, in file order."""

from __future__ import annotations

import difflib
import itertools
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.matrix.case import MoETestConfig
from moe.layers import OWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harness.matrix.schema import Axes, LayoutModel, MatrixConfig, Suite


def _shape(value: list[int]) -> dict[str, Any]:
    return dict(zip(("m", "n", "k"), value, strict=True))


def _layout(value: LayoutModel) -> dict[str, Any]:
    return {
        "dp_size": value.dp,
        "tp_size": value.tp,
        "use_ep": value.ep,
        "sequence_parallel": value.sp,
    }


# Axes that set more than the one field of their own name.
_SPREAD: dict[str, Callable[[Any], dict[str, Any]]] = {"shapes": _shape, "layouts": _layout}


def suite_of(config: MatrixConfig, name: str) -> Suite:
    """The suite called `name`. Raises UsageError, which names those there are."""
    if name not in config.suites:
        close = difflib.get_close_matches(name, config.suites, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"no suite is called {name!r}{hint} (known: {', '.join(config.suites)})")
    return config.suites[name]


def expand(config: MatrixConfig, name: str) -> tuple[MoETestConfig, ...]:
    """Every point of a suite; one that two blocks share comes once, where it stood first."""
    points = (
        p for block in suite_of(config, name).blocks for p in _product(block, config.defaults)
    )
    return tuple(dict.fromkeys(points))


def _product(block: Axes, defaults: Axes) -> Iterable[MoETestConfig]:
    axes = []
    for axis in type(block).model_fields:
        values = getattr(block, axis)
        if values is None:
            values = getattr(defaults, axis)
        if values is not None:
            spread = _SPREAD.get(axis)
            axes.append([spread(value) if spread else {axis: value} for value in values])
    for choice in itertools.product(*axes):
        fields: dict[str, Any] = {}
        for part in choice:
            fields.update(part)
        yield MoETestConfig(**fields)


def with_experts(points: Iterable[MoETestConfig], name: str) -> tuple[MoETestConfig, ...]:
    """The same points with one experts backend; those that become equal are merged."""
    return tuple(dict.fromkeys(point.replace(experts=name) for point in points))


def with_layer(points: Iterable[MoETestConfig], name: str) -> tuple[MoETestConfig, ...]:
    """The same points with one whole layer, which has members of its own; equal ones merged."""
    members = {"experts": OWN, "all2all": MoETestConfig.all2all}
    return tuple(dict.fromkeys(point.replace(layer=name, **members) for point in points))


def with_seeds(points: Iterable[MoETestConfig], count: int) -> tuple[MoETestConfig, ...]:
    """Each point with `count` seeds, counted up from its own."""
    seeded = (point.replace(seed=point.seed + i) for point in points for i in range(count))
    return tuple(dict.fromkeys(seeded))
