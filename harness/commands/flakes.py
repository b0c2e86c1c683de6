"""Run `flakes`: add runs to a store of results, and show how often each case was flaky."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import ExitCode, UsageError
from harness.record.run_folder import RunFolder
from harness.report import flake_store
from harness.report.tables import view

if TYPE_CHECKING:
    import argparse


def show_flakes(args: argparse.Namespace) -> int:
    """Print the cases that ever failed, the flakiest first. Raises UsageError."""
    if not (args.folders or args.db):
        raise UsageError("name run folders, or an earlier store of results with --db FILE")
    if args.db and not args.folders and not args.db.is_file():
        raise UsageError(f"there is no store of results {str(args.db)!r}; name run folders")
    runs = [view(RunFolder.open(path)) for path in args.folders]
    with flake_store.opened(args.db) as store:
        for run in runs:
            flake_store.add(store, run)
        known, count = flake_store.histories(store), flake_store.count_runs(store)
    print("\n".join(flake_store.lines(known, count)))
    return ExitCode.PASSED
