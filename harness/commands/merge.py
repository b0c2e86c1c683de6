"""Run `merge`: write the shards of a suite as one run's folder, if together they are all of it."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.plan.manifest import folder_for
from harness.record import ledger
from harness.record.cross_case import compared
from harness.record.events import RunEnded, RunStarted
from harness.record.run_folder import ROOT, RunFolder
from harness.record.shard_union import ended_at, is_unfinished, joined, joined_events
from harness.record.summary import summarize

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from harness.record.events import Event
    from harness.record.run_info import RunInfo
    from harness.record.summary import Summary


def merge_runs(args: argparse.Namespace) -> int:
    """Merge runs and print the summary line; return the exit code that one run would have.

    Nothing is written unless the runs are exactly the shards of one suite.
    """
    folders = [RunFolder.open(path) for path in args.folders]
    info = dataclasses.replace(joined(folders), argv=tuple(args.argv))
    path = args.out or folder_for(ROOT, f"{info.suite or 'cases'}-merged")
    shards = [folder.events() for folder in folders]
    with RunFolder.create(path, info) as merged:
        summary = _fill(merged, folders, shards, info)
        notes = ledger.notes(merged.results.values(), info.refused)
    notes += [
        f"shard {str(folder.path)!r} is unfinished: resume it"
        for folder, events in zip(folders, shards, strict=True)
        if is_unfinished(folder, events)
    ]
    print("".join(f"{line}\n" for line in notes), end="")
    print(f"merged {len(folders)} shard(s) into {path}")
    print(summary.line())
    return summary.exit_code()


def _fill(
    merged: RunFolder,
    folders: Sequence[RunFolder],
    shards: Sequence[Sequence[Event]],
    info: RunInfo,
) -> Summary:
    """Write events, logs and counts of the whole. shards: the events of each folder."""
    merged.append(RunStarted(time=info.time, cases=list(info.cases)))
    for event in compared(joined_events(shards)):  # shards could not compare each other's outputs
        merged.append(event)
    for folder in folders:
        _copy_logs(folder, merged)
    end = ended_at(shards)
    seconds = max(0.0, end - info.time)
    by_id = info.suite is None
    summary = summarize(info.cases, len(info.refused), merged.results, seconds, by_id=by_id)
    counts = summary.to_json()
    if not counts["not_run"]:
        verdicts = {name: count for name, count in counts.items() if name != "seconds"}
        merged.append(RunEnded(time=end, seconds=seconds, counts=verdicts))
    merged.write_summary(counts)
    return summary


def _copy_logs(folder: RunFolder, merged: RunFolder) -> None:
    """Copy a shard's logs and pictures; their names begin with the case's id."""
    try:
        if folder.log_dir.exists():
            shutil.copytree(folder.log_dir, merged.log_dir, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise UsageError(f"cannot copy the logs of {str(folder.path)!r}: {error}") from error
