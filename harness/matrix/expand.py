"""Expand a checked matrix file into cases: each block's product, without repetition, in order."""

from __future__ import annotations

import difflib
import itertools
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.matrix.case import FILE_KEYS, MoETestConfig
from harness.matrix.select import parse
from harness.matrix.suite_size import check_points
from harness.matrix.tactics import each_tactic
from moe.layers import OWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harness.matrix.schema import Axes, Block, MatrixConfig, Suite
    from harness.matrix.yaml_positions import Path

    Choose = Callable[[Block, Axes, tuple[MoETestConfig, ...]], Iterable[MoETestConfig]]


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


def expand(
    config: MatrixConfig, name: str, choose: Choose | None = None
) -> tuple[MoETestConfig, ...]:
    """Return the cases of a suite; a case of several blocks is at its first position only.

    The cases of the suites that it includes come first. choose: returns the cases of a block that
    selects some of its product, given the cases before it; `harness.plan.suites` has it. Raises
    UsageError for an unknown or too large suite, and ValueError for such a block without `choose`.
    """
    return tuple(origins(config, name, choose))


def origins(
    config: MatrixConfig, name: str, choose: Choose | None = None
) -> dict[MoETestConfig, Path]:
    """Return the cases of `expand`, each with the place of its block, or of its id, in the file."""
    points: dict[MoETestConfig, Path] = {}
    suite = suite_of(config, name)
    check_points(config, name)
    for included in suite.include:
        for case, path in origins(config, included, choose).items():
            points.setdefault(case, path)
    for number, block in enumerate(suite.blocks):
        path = ("suites", name, "blocks", number)
        for i, case_id in enumerate(block.cases):
            points.setdefault(MoETestConfig.from_id(case_id), (*path, "cases", i))
        if parse(block.select).is_full:
            cases = _product(block, config.defaults)
        elif choose is None:
            raise ValueError(f"{name} selects some points of a block: use harness.plan.suites")
        else:
            cases = choose(block, config.defaults, tuple(points))
        for case in cases:
            points.setdefault(case, path)
    return points


def block_values(block: Axes, defaults: Axes) -> dict[str, list[dict[str, Any]]]:
    """Return each key of a block or of `defaults`, with the fields that each of its values sets."""
    values = {
        key: value
        for key in FILE_KEYS
        if (value := getattr(block, key) or getattr(defaults, key)) is not None
    }
    return {key: [_fields(key, item) for item in items] for key, items in values.items()}


def _product(block: Axes, defaults: Axes) -> Iterable[MoETestConfig]:
    for choice in itertools.product(*block_values(block, defaults).values()):
        fields: dict[str, Any] = {}
        for part in choice:
            fields.update(part)
        yield from each_tactic(MoETestConfig(**fields))


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
