"""Everything that decides whether a layer is correct: one module per check, run in table order.

Other packages add checks through entry points of the group `moe.checks`, each naming a
`harness.checks.check.Check`; these run last. Torch is imported only when the checks are loaded.
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
    "harness.checks.collectives:CHECK",
    "harness.checks.router_output:CHECK",
    "harness.checks.routing:CHECK",
    "harness.checks.replicas:CHECK",
    "harness.checks.expert_loads:CHECK",
    "harness.checks.output_dtype:CHECK",
    "harness.checks.memory:CHECK",
    "harness.checks.output_rows:CHECK",
    "harness.checks.members:CHECK",
    "harness.checks.launched:CHECK",
    "harness.checks.tp_replicas:CHECK",
    "harness.checks.determinism:CHECK",
    "harness.checks.batch_invariance:CHECK",
    "harness.checks.plain_call:CHECK",
    "harness.checks.skew:CHECK",
    "harness.checks.quantization_applied:CHECK",
    "harness.checks.stages:CHECK",
    "harness.checks.stages:INSIDE",
    "harness.checks.pooled_calls:CHECK",
    "harness.checks.second_layer:CHECK",
)


@functools.cache
def all_checks() -> tuple[Check, ...]:
    """Return the table's checks in order, then those of other packages. Cached."""
    checks = [*map(resolve, TARGETS), *(entry.load() for entry in entry_points(group=GROUP))]
    names = [check.name for check in checks]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise HarnessError(f"two checks are called {duplicates[0]!r}; rename one")
    return tuple(checks)
