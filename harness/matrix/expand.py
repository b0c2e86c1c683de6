"""From a checked matrix file to cases: each block's product, each point once, in file order."""

from __future__ import annotations

import difflib
import itertools
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.matrix.case import FILE_KEYS, MoETestConfig
from moe.layers import OWN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.matrix.schema import Axes, MatrixConfig, Suite


def _fields(key: str, value: Any) -> dict[str, Any]:
    """What one value under a key of the file sets: one field of the case, or those of a group."""
    axes = FILE_KEYS[key]
    if axes[0].group is None:
        return {key: value}
    if isinstance(value, list):
        return dict(zip((axis.name for axis in axes), value, strict=True))
    return {axis.name: getattr(value, axis.token) for axis in axes}


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
    for key in FILE_KEYS:
        values = getattr(block, key)
        if values is None:
            values = getattr(defaults, key)
        if values is not None:
            axes.append([_fields(key, value) for value in values])
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
    if count == 1:
        return tuple(dict.fromkeys(points))
    seeded = (point.replace(seed=point.seed + i) for point in points for i in range(count))
    return tuple(dict.fromkeys(seeded))
