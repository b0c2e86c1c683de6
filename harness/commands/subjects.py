"""Run `subjects`: print a table of what stored runs showed of other people's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import ExitCode, NothingSelected
from harness.record.run_folder import RunFolder
from harness.report import subject_table
from harness.report.tables import markdown_table, view

if TYPE_CHECKING:
    import argparse


def show_subjects(args: argparse.Namespace) -> int:
    """Print the table in markdown, and below it each case that deviates.

    Raises NothingSelected if no case of any subject ran.
    """
    runs = [view(RunFolder.open(path)) for path in args.folders]
    head, *rows = subject_table.table(runs)
    if not rows:
        names = ", ".join(repr(str(path)) for path in args.folders)
        raise NothingSelected(
            f"no case of {names} ran a member that needs a package, or is named by its path; "
            "`run --suite subjects` has such cases"
        )
    print(markdown_table(head, rows))
    deviating = subject_table.deviating(runs)
    print("".join(f"\n{line}" for line in deviating), end="\n" if deviating else "")
    return ExitCode.PASSED
