"""Choose the part of a plan that a run launches: changed and not quarantined cases, or one shard.

No torch.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import NothingSelected, UsageError
from harness.plan import shards, time_budget
from harness.plan.durations import Durations, of_run
from harness.plan.only_changed import only_changed
from harness.record.ledger import QUARANTINED, Ledger
from moe.reason import Reason

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from harness.plan.only_changed import Narrowed
    from harness.plan.plan import Plan
    from harness.plan.time_budget import Chosen
    from harness.record.run_info import RunInfo, ShardOf


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a run launches. shard: None if that is the whole plan. chosen: by a time budget.

    narrowed: by changed files.
    """

    plan: Plan
    ledger: Ledger
    durations: Durations
    shard: ShardOf | None = None
    chosen: Chosen | None = None
    narrowed: Narrowed | None = None

    def lines(self) -> list[str]:
        """Return what was selected by changed files and by a time budget, for people."""
        return [line for part in (self.narrowed, self.chosen) if part for line in part.lines()]


def part_of(args: argparse.Namespace, plan: Plan, resumed: RunInfo | None = None) -> Part:
    """Return what the options leave of a plan. Raises UsageError and ConfigError.

    resumed: of the folder that a run continues; it keeps its own quarantine and shard.
    """
    _check_resumed(args, resumed)
    narrowed = only_changed(plan, args.only_changed) if args.only_changed is not None else None
    if narrowed is not None:
        return replace(_part(args, narrowed.plan, resumed), narrowed=narrowed)
    return _part(args, plan, resumed)


def _check_resumed(args: argparse.Namespace, resumed: RunInfo | None) -> None:
    """Raise UsageError for an option that would change the cases of a run that goes on."""
    for option in ("shard", "time_budget", "only_changed"):
        if resumed is not None and getattr(args, option) is not None:
            name = f"--{option.replace('_', '-')}"
            raise UsageError(f"--resume continues the folder's own cases: leave out {name}")


def _part(args: argparse.Namespace, plan: Plan, resumed: RunInfo | None) -> Part:
    """Return what the other options leave of a plan."""
    ledger = ledger_of(args.known_failures, plan)
    durations = Durations() if args.durations_from is None else of_run(args.durations_from)
    if resumed is not None:
        quarantined = {p.case: p.text for p in resumed.refused if p.code == QUARANTINED}
        plan = without(plan, quarantined)
        return Part(plan=plan, ledger=ledger, durations=durations, shard=resumed.shard)
    plan = without(plan, held_back(plan, ledger))
    if args.time_budget is not None:
        chosen = _chosen(args, plan, durations)
        return Part(plan=chosen.plan, ledger=ledger, durations=durations, chosen=chosen)
    if args.shard is None:
        return Part(plan=plan, ledger=ledger, durations=durations)
    if not plan.cases:
        raise NothingSelected(f"nothing would run here: {len(plan.refused)} refused, 0 to shard")
    index, count = shards.parse(args.shard, os.environ)
    plan, shard = shards.shard(plan, index, count, durations)
    return Part(plan=plan, ledger=ledger, durations=durations, shard=shard)


def _chosen(args: argparse.Namespace, plan: Plan, durations: Durations) -> Chosen:
    """Return the cases that fit into the time budget. Raises UsageError and NothingSelected."""
    if args.shard is not None:
        raise UsageError(
            "--time-budget and --shard exclude each other: shards must be all of the suite together"
        )
    budget = time_budget.seconds(args.time_budget, "--time-budget")
    slots = getattr(args, "slots", None) or plan.machine.slots  # `list` has no --slots
    if plan.machine.platform.device == "cpu" and not durations.cases:
        slots = min(slots, plan.machine.cores)  # an estimate is of a rank that has a core
    return time_budget.within(plan, budget, durations, slots)


def ledger_of(path: Path | None, plan: Plan) -> Ledger:
    """Return the known failures of a file that count for a plan's machine today."""
    from harness.record.known_failures import known_failures

    today = datetime.datetime.now(datetime.UTC).date()
    entries = known_failures(path)
    return Ledger(entries=entries, platform=plan.machine.platform.name, today=today)


def held_back(plan: Plan, ledger: Ledger) -> dict[str, str]:
    """Return the cases in quarantine with the reason. Expired ones are left: they fail the run."""
    if not ledger.entries:
        return {}
    reasons = ((i, ledger.quarantine(i)) for i in plan.cases.ids() if ledger.lapsed(i) is None)
    return {case_id: text for case_id, text in reasons if text is not None}


def without(plan: Plan, reasons: dict[str, str]) -> Plan:
    """Return a plan in which these cases are refused as quarantined, for these reasons."""
    return plan.refusing({i: Reason(code=QUARANTINED, text=text) for i, text in reasons.items()})
