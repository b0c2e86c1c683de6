"""Run `report`: show a stored run on the console, or write it as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ExitCode, UsageError, reason_of
from harness.record.run_folder import RunFolder
from harness.report import html_page, junit, trace, trace_results
from harness.report.tables import console, markdown, view

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def show_report(args: argparse.Namespace) -> int:
    """Print a stored run, or write it as files and print their names."""
    if not (args.junit or args.markdown or args.html or args.trace or args.evaluations):
        print(console(view(RunFolder.open(args.folder))))
        return ExitCode.PASSED
    try:
        for path in _written(args):
            print(path)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename!r}: {reason_of(error)}") from error
    return ExitCode.PASSED


def _written(args: argparse.Namespace) -> Iterator[Path | str]:
    """Write the files that are asked for, and yield the name of each."""
    folder = RunFolder.open(args.folder)
    stored = view(folder)
    if args.junit:
        yield from junit.write(stored, args.junit)
    if args.markdown:
        args.markdown.write_text(markdown(stored), encoding="utf-8")
        yield args.markdown
    if args.html is not None:
        path = args.folder / html_page.NAME if args.html == Path() else args.html
        html_page.write(stored, args.folder, path)
        yield path
    if args.trace is not None:
        path = args.folder / trace.NAME if args.trace == Path() else args.trace
        trace.write(folder.events(), path)
        yield path
    if args.evaluations is not None:
        yield trace_results.write(stored, args.evaluations)
