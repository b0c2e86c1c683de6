"""Run `collect`: join the shards of a CI job's runs, report them, and annotate the build.

`buildkite-agent` brings the shards' folders and shows the annotation; without it, the folders must
lie there already, and only files are written. What the agent cannot do fails no test.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from harness.commands.merge import merge_runs
from harness.errors import HarnessError, NothingSelected, UsageError
from harness.record.run_folder import RunFolder
from harness.report import annotation, html_page, junit
from harness.report.tables import view

if TYPE_CHECKING:
    from pathlib import Path

AGENT = "buildkite-agent"
DOWNLOAD_SECONDS = 300.0
ANNOTATE_SECONDS = 60.0
MERGED = "merged"
RUN = "run.json"  # in every run's folder


def collect(args: argparse.Namespace) -> int:
    """Return the exit code of the whole; the annotation says why if there is none.

    Raises UsageError, and writes nothing, for a run's own folder, and for one that is not there
    where no agent can bring it.
    """
    _check_folder(args.folder)
    _agent(["artifact", "download", f"{args.folder}/**/*", "."], DOWNLOAD_SECONDS)
    try:
        code, run_folder = _whole(args.folder, args.argv)
    except HarnessError as error:
        text = annotation.of_error(args.context, str(error))
        _annotate(args, text, "error")
        raise
    stored = view(RunFolder.open(run_folder))
    for path in junit.write(stored, args.folder / "junit.xml"):
        print(path)
    html_page.write(stored, run_folder, args.folder / html_page.NAME)
    print(args.folder / html_page.NAME)
    style = annotation.style(stored.summary)
    _annotate(args, annotation.of_run(stored), style)
    return code


def _check_folder(folder: Path) -> None:
    """Raise UsageError for a folder that cannot hold the folders of runs."""
    name = repr(str(folder))
    if (folder / RUN).is_file():
        raise UsageError(
            f"{name} is a run's own folder: give the folder that the runs' folders are in, or use "
            "`report` for one run"
        )
    if not folder.exists() and shutil.which(AGENT) is None:
        raise UsageError(f"there is no folder {name}, and no {AGENT} on PATH that could bring it")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{name} is not a folder: give the one that the runs' folders are in")


def _whole(folder: Path, argv: list[str]) -> tuple[int, Path]:
    """Return exit code and folder of the whole run: of the only one, or of the merged shards."""
    runs = sorted(path.parent for path in folder.glob(f"*/{RUN}") if path.parent.name != MERGED)
    if not runs:
        raise NothingSelected(f"no run lies in {str(folder)!r}: no job has ended with a record")
    if len(runs) == 1 and RunFolder.open(runs[0]).info.shard is None:
        summary = view(RunFolder.open(runs[0])).summary
        print(summary.line())
        return summary.exit_code(), runs[0]
    if (folder / MERGED).exists():
        shutil.rmtree(folder / MERGED)
    merge = argparse.Namespace(folders=runs, out=folder / MERGED, argv=argv)
    return merge_runs(merge), folder / MERGED


def _annotate(args: argparse.Namespace, text: str, style: str) -> None:
    """Write the annotation to a file, and show it if there is an agent."""
    path = args.folder / "report.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(path)
    command = ["annotate", "--context", args.context, "--style", style]
    _agent(command, ANNOTATE_SECONDS, text)


def _agent(arguments: list[str], seconds: float, text: str | None = None) -> None:
    """Call the agent, if there is one; a fault of it is a warning."""
    if shutil.which(AGENT) is None:
        return
    try:
        subprocess.run([AGENT, *arguments], input=text, text=True, check=True, timeout=seconds)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"warning: {error}", file=sys.stderr)
