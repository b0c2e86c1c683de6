"""Run `power`: run as `run` does, or read an earlier run, and print its certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import ExitCode, UsageError
from harness.mutants.coverage import certificate
from harness.mutants.triple_certificate import triple_certificate
from harness.plan.manifest import folder_for
from harness.record.run_folder import ROOT, RunFolder
from harness.report.tables import view

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def certify(args: argparse.Namespace, run: Callable[[argparse.Namespace], int]) -> int:
    """Print the certificate of a run; return the exit code of the run, or 1 if it has gaps."""
    code: int = ExitCode.PASSED
    folder = args.folder or args.resume or args.out or folder_for(ROOT, "power")
    if args.folder is None:
        args.out = None if args.resume else folder
        code = run(args)
    elif any((args.suite, args.case, args.last_failed, args.model, args.trace, *_of_runs(args))):
        raise UsageError(
            "--from reads an earlier run and runs nothing: leave out "
            "--suite, --case, --last-failed, --model, --trace, --resume, --out and --require"
        )
    results = view(RunFolder.open(folder)).results
    by_layout, by_triples = certificate(results), triple_certificate(results)
    print("\n".join([*by_layout.lines(), *by_triples.lines()]))
    is_complete = by_layout.complete and not by_triples.gaps
    return code or (ExitCode.PASSED if is_complete else ExitCode.FAILED)


def _of_runs(args: argparse.Namespace) -> tuple[object, ...]:
    return args.resume, args.out, args.require
