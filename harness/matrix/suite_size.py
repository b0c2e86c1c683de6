"""Refuse a suite that is too large to be planned, before its points are made.

A product of axes grows by each value that a line of the matrix file gets. Without a limit, a suite
of a billion points would take the whole memory of a machine before anything is said.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.matrix.select import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.matrix.covering.model import Factors
    from harness.matrix.schema import Axes, Block, MatrixConfig

MOST_SECONDS = 1_000_000  # that a case may take: timers of the operating system end soon after
MOST_CASES = 1_000_000  # points of a suite, cases of --seeds, turns of --repeat
# Combinations times values of a block: what the search for few cases keeps in memory grows with it.
MOST_WORK = 100_000_000


def check_points(config: MatrixConfig, name: str) -> None:
    """Raise UsageError if the full products of a suite have too many points together."""
    sizes = _sizes(config, name)
    total = sum(sizes.values())
    if total > MOST_CASES:
        place = max(sizes, key=lambda key: sizes[key])
        raise UsageError(
            f"suite {name!r} has {total:,} points, more than {MOST_CASES:,}; its largest block, "
            f"{place}, has {sizes[place]:,}: give it fewer values, or select: pairwise or "
            "random(1000, 1)"
        )


def _sizes(config: MatrixConfig, name: str) -> dict[str, int]:
    """Return the number of points of each full product of a suite, by its place in the file."""
    sizes: dict[str, int] = {}
    suite = config.suites[name]
    for included in suite.include:
        sizes |= _sizes(config, included)
    for number, block in enumerate(suite.blocks):
        if parse(block.select).is_full:
            sizes[f"suites.{name}.blocks[{number}]"] = _points(block, config.defaults)
    return sizes


def _points(block: Block, defaults: Axes) -> int:
    """Return the number of points of a block's full product."""
    keys = type(defaults).model_fields
    values = (getattr(block, key) or getattr(defaults, key) for key in keys)
    return math.prod(len(items) for items in values if items is not None)


def check_combinations(sizes: Sequence[int], targets: Sequence[Factors], select: str) -> None:
    """Raise UsageError if a block has too many combinations to be covered by few cases.

    sizes: the number of values of each factor; targets: the sets of factors that are combined.
    """
    combinations = sum(math.prod(sizes[factor] for factor in target) for target in targets)
    values = sum(sizes)
    if combinations * values > MOST_WORK:
        raise UsageError(
            f"a block with select: {select} has {combinations:,} combinations of {values:,} "
            f"values; the product of both may be at most {MOST_WORK:,}: give its axes fewer "
            "values, or select: random(1000, 1)"
        )
