"""Everything that decides whether a layer is right: one module a check, in the order of the table.

Checks of other packages come in by entry points of the group `moe.checks`, each naming a
`harness.checks.check.Check`; they run last. No torch until the checks are asked for.
"""

from __future__ import annotations

import functools
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from moe.spec import resolve

if TYPE_CHECKING:
    from harness.checks.check import Check

GROUP = "moe.checks"
TARGETS = (
    "harness.checks.routing:CHECK",
    "harness.checks.output_dtype:CHECK",
    "harness.checks.memory:CHECK",
    "harness.checks.output_rows:CHECK",
    "harness.checks.members:CHECK",
    "harness.checks.tp_replicas:CHECK",
    "harness.checks.determinism:CHECK",
    "harness.checks.quantization_applied:CHECK",
    "harness.checks.stages:CHECK",
    "harness.checks.stages:INSIDE",
    "harness.checks.pooled_calls:CHECK",
)


@functools.cache
def all_checks() -> tuple[Check, ...]:
    """Return the table's checks in order, then those of other packages. Read once, then kept."""
    checks = [*map(resolve, TARGETS), *(entry.load() for entry in entry_points(group=GROUP))]
    names = [check.name for check in checks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HarnessError(f"two checks are called {twice[0]!r}; rename one")
    return tuple(checks)
