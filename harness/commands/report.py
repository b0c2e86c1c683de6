"""Run `report`: show a stored run on the console, or write it as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import ExitCode, UsageError
from harness.record.run_folder import RunFolder
from harness.report import junit
from harness.report.tables import console, markdown, view

if TYPE_CHECKING:
    import argparse


def show_report(args: argparse.Namespace) -> int:
    """Print a stored run, or write it as JUnit XML and markdown and print the files' names."""
    stored = view(RunFolder.open(args.folder))
    try:
        if args.junit:
            for path in junit.write(stored, args.junit):
                print(path)
        if args.markdown:
            args.markdown.write_text(markdown(stored), encoding="utf-8")
            print(args.markdown)
    except OSError as error:
        raise UsageError(f"cannot write the report: {error}") from error
    if not (args.junit or args.markdown):
        print(console(stored))
    return ExitCode.PASSED
