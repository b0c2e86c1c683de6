"""Run `diff`: show what changed from one stored run to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import ExitCode, UsageError, reason_of
from harness.record.run_folder import RunFolder
from harness.report.run_difference import console, difference, markdown
from harness.report.tables import view

if TYPE_CHECKING:
    import argparse


def show_difference(args: argparse.Namespace) -> int:
    """Print the difference, or write it as markdown.

    Return 1 if a case newly fails, no longer runs, or has another output.
    """
    before, after = (view(RunFolder.open(path)) for path in (args.before, args.after))
    changes = difference(before, after)
    if args.markdown is None:
        print(console(changes))
    else:
        try:
            args.markdown.write_text(markdown(changes), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {error.filename!r}: {reason_of(error)}") from error
        print(args.markdown)
    return ExitCode.FAILED if changes.is_worse else ExitCode.PASSED
