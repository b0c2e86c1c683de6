"""Expand a checked matrix file into cases: each block's product, without repetition, in order."""

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
    """Return the fields of the case that one value under a key of the file sets."""
    axes = FILE_KEYS[key]
    if axes[0].group is None:
        return {key: value}
    if isinstance(value, list):
        return dict(zip((axis.name for axis in axes), value, strict=True))
    return {axis.name: getattr(value, axis.token) for axis in axes}


def suite_of(config: MatrixConfig, name: str) -> Suite:
    """Return the suite called `name`. Raises UsageError, which lists the suites of the file."""
    if name not in config.suites:
        close = difflib.get_close_matches(name, config.suites, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"no suite is called {name!r}{hint} (known: {', '.join(config.suites)})")
    return config.suites[name]


def expand(config: MatrixConfig, name: str) -> tuple[MoETestConfig, ...]:
    """Return the cases of a suite; a case of several blocks is at its first position only."""
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
    """Return the cases with one experts backend; cases that become equal are merged."""
    return tuple(dict.fromkeys(point.replace(experts=name) for point in points))


def with_layer(points: Iterable[MoETestConfig], name: str) -> tuple[MoETestConfig, ...]:
    """Return the cases with a layer that has its own members; equal cases are merged."""
    members = {"experts": OWN, "all2all": MoETestConfig.all2all}
    return tuple(dict.fromkeys(point.replace(layer=name, **members) for point in points))


def with_seeds(points: Iterable[MoETestConfig], count: int) -> tuple[MoETestConfig, ...]:
    """Return each case with `count` seeds, starting at its own."""
    if count == 1:
        return tuple(dict.fromkeys(points))
    seeded = (point.replace(seed=point.seed + i) for point in points for i in range(count))
    return tuple(dict.fromkeys(seeded))
