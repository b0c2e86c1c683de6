"""Say how a plan is run: slots, devices, attempts, and what every rank gets. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run a plan.

    log_dir: folder for logs of failed cases. retries: further attempts, each in a fresh gang.
    slots: number of ranks that may run at once on each device; a CPU counts as one device, and a
    gang with more ranks has its devices for itself. Where a job's gang leaves slots free, further
    gangs take part of its cases. devices: GPUs that gangs are spread over; 0 = on a CPU, or one
    gang at a time over all GPUs.
    rank_options: passed to every rank as `RankContext.options`. executor: "module:function",
    called in each rank with (case, context), returns a RankResult. until: when to stop, as in
    `time.monotonic()`; cases still running then have no result. forgiven: ids of cases whose
    failure does not end a run with `fail_fast`; the caller decides. other_seeds: how many are
    tried, after its own, of a case whose inputs could not have shown a mistake.
    """

    log_dir: Path
    fail_fast: bool = False
    retries: int = 0
    slots: int = 1
    devices: int = 0
    rank_options: dict[str, Any] = field(default_factory=dict)
    executor: str = "harness.execute:run_case"
    until: float | None = None
    forgiven: frozenset[str] = frozenset()
    other_seeds: int = 0
