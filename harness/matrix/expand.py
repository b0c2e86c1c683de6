"""Expand a checked matrix file into cases: each block's product, without repetition, in order."""

from __future__ import annotations

import difflib
import itertools
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.matrix.case import FILE_KEYS, MoETestConfig
from harness.matrix.case_list import CaseList, Product, case_list
from harness.matrix.select import parse
from harness.matrix.suite_size import check_points
from harness.matrix.tactics import each_tactic
from moe.layers import OWN
from moe.spec import ALL_TACTICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from harness.matrix.case_list import Part
    from harness.matrix.schema import Axes, Block, MatrixConfig, Suite
    from harness.matrix.yaml_positions import Path

    Choose = Callable[[Block, Axes, Iterator[MoETestConfig]], Iterable[MoETestConfig]]


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
    config: MatrixConfig,
    name: str,
    choose: Choose | None = None,
    after: Sequence[MoETestConfig] = (),
) -> CaseList:
    """Return the cases of a suite; a case of several blocks is at its first position only.

    The cases of the suites that it includes come first. choose: returns the cases of a block that
    selects some of its product, given the cases before it; `harness.plan.suites` has it. after:
    further cases. Raises UsageError for an unknown or too large suite, and ValueError for such a
    block without `choose`.
    """
    return CaseList.of([*(part for _, part in _parts(config, name, choose)), after])


def origins(
    config: MatrixConfig, name: str, choose: Choose | None = None
) -> dict[MoETestConfig, Path]:
    """Return the cases of `expand`, each with the place of its block, or of its id, in the file."""
    points: dict[MoETestConfig, Path] = {}
    for path, part in _parts(config, name, choose):
        for case in CaseList.of([part]):
            points.setdefault(case, path)
    return points


def _parts(config: MatrixConfig, name: str, choose: Choose | None) -> list[tuple[Path, Part]]:
    """Return the places of a suite's blocks and ids in the file, each with its cases."""
    suite = suite_of(config, name)
    check_points(config, name)
    parts = [part for included in suite.include for part in _parts(config, included, choose)]
    before: list[Sequence[MoETestConfig]] = []  # the first of these parts, as cases
    for number, block in enumerate(suite.blocks):
        path = ("suites", name, "blocks", number)
        for i, case_id in enumerate(block.cases):
            parts.append(((*path, "cases", i), [MoETestConfig.from_id(case_id)]))
        if parse(block.select).is_full:
            parts.append((path, _product(block, config.defaults)))
        elif choose is None:
            raise ValueError(f"{name} selects some points of a block: use harness.plan.suites")
        else:
            before += (_cases(part) for _, part in parts[len(before) :])
            chosen = choose(block, config.defaults, itertools.chain.from_iterable(before))
            parts.append((path, tuple(chosen)))
    return parts


def _cases(part: Part) -> Sequence[MoETestConfig]:
    return CaseList.of([part]) if isinstance(part, Product) else part


def block_values(block: Axes, defaults: Axes) -> dict[str, list[dict[str, Any]]]:
    """Return each key of a block or of `defaults`, with the fields that each of its values sets."""
    values = {
        key: value
        for key in FILE_KEYS
        if (value := getattr(block, key) or getattr(defaults, key)) is not None
    }
    return {key: [_fields(key, item) for item in items] for key, items in values.items()}


def _product(block: Axes, defaults: Axes) -> Part:
    """Return the points of a block, with each tactic of a backend in place of `all`."""
    product = Product(block_values(block, defaults).values())
    if all(fields.get("tactic") != ALL_TACTICS for fields in product.fields()):
        return product
    return [case for point in CaseList.of([product]) for case in each_tactic(point)]


def with_experts(points: Iterable[MoETestConfig], name: str) -> CaseList:
    """Return the cases with one experts backend; cases that become equal are merged."""
    return case_list(points).with_value("experts", name)


def with_layer(points: Iterable[MoETestConfig], name: str) -> CaseList:
    """Return the cases with a layer that has its own members; equal cases are merged."""
    cases = case_list(points).with_value("layer", name).with_value("experts", OWN)
    return cases.with_value("all2all", MoETestConfig.all2all)


def with_seeds(points: Iterable[MoETestConfig], count: int) -> CaseList:
    """Return each case with `count` seeds, starting at its own."""
    cases = case_list(points)
    return cases.distinct() if count == 1 else cases.with_seeds(count)
