"""Show the progress of a run: a line for each case, or a live bar on a terminal."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from harness.record.events import CaseEnded, CaseStarted, GangEnded, GangStarted
from harness.record.result import Verdict
from harness.report import failure_text

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from harness.record.events import Event
    from harness.record.result import CaseResult


KNOWN_LINES = 5  # of a failure that was expected


class Progress(Protocol):
    """Receive every event of a run, in order."""

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


def make(total: int, folder: Path, *, verbose: bool, stream: TextIO | None = None) -> Progress:
    """Return a live display on a terminal, else plain lines; groups of lines in Buildkite's log."""
    out = stream or sys.stdout
    if os.environ.get("BUILDKITE") == "true":
        return Grouped(total, folder, verbose=verbose, stream=out)
    if out.isatty():
        return Live(total, folder, verbose=verbose, stream=out)
    return Plain(total, folder, verbose=verbose, stream=out)


def case_lines(result: CaseResult, folder: Path, *, verbose: bool = False) -> list[str]:
    """Return verdict, time and id; for a case that did not pass, its failure text as well.

    verbose: do not shorten the failure text.
    """
    head = f"{result.verdict:<8} {result.seconds:7.2f}s  {result.case_id}"
    if result.attempt > 1:
        head += f"  (attempt {result.attempt})"
    if result.seed is not None:
        head += f"  (judged with seed {result.seed})"
    limit = KNOWN_LINES if result.verdict is Verdict.KNOWN else failure_text.MAX_LINES
    texts = failure_text.lines(result, None if verbose else limit, folder)
    return [head, *(f"    {line}" for line in texts)]


def _gang_line(event: Event) -> str | None:
    if isinstance(event, GangStarted):
        return (
            f"gang {event.gang}: {event.world_size} rank(s) over {event.transport}, "
            f"ready after {event.seconds:.2f}s"
        )
    if isinstance(event, GangEnded):
        return f"gang {event.gang}: ended after {event.cases} case(s): {event.reason}"
    return None


class Plain:
    """Print a line for each case, flushed at once so that a CI log follows the run."""

    def __init__(self, total: int, folder: Path, *, verbose: bool, stream: TextIO) -> None:
        self._total, self._folder, self._stream = total, folder, stream
        self._verbose = verbose
        self._ended: set[str] = set()

    def show(self, event: Event) -> None:
        if isinstance(event, CaseEnded):
            self._ended.add(event.result.case_id)
            if event.result.verdict is Verdict.NOT_RUN:
                return  # counted in the run's last lines
            lines = case_lines(event.result, self._folder, verbose=self._verbose)
            width = len(str(self._total))
            lines[0] = f"[{len(self._ended):{width}}/{self._total}] {lines[0]}"
            self._print("\n".join(lines))
        elif self._verbose and (line := _gang_line(event)):
            self._print(line)

    def close(self) -> None:
        self._stream.flush()

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Grouped(Plain):
    """Print lines in groups of Buildkite's log: passed cases folded, each failure open."""

    def __init__(self, total: int, folder: Path, *, verbose: bool, stream: TextIO) -> None:
        super().__init__(total, folder, verbose=verbose, stream=stream)
        self._is_folded = False

    def show(self, event: Event) -> None:
        if isinstance(event, CaseEnded):
            self._group(event.result)
        super().show(event)

    def _group(self, result: CaseResult) -> None:
        """Begin a group, unless the case goes into the folded one that is open."""
        if result.verdict is Verdict.NOT_RUN:
            return
        is_good = result.verdict in (Verdict.PASSED, Verdict.KNOWN)
        if not is_good:
            self._print(f"+++ {result.verdict} {result.case_id}")
        elif not self._is_folded:
            self._print(f"--- cases from {len(self._ended) + 1} of {self._total}")
        self._is_folded = is_good


class Live:
    """Show a bar with counts and the running case; cases that did not pass are printed above."""

    def __init__(self, total: int, folder: Path, *, verbose: bool, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._folder, self._verbose = folder, verbose
        self._verdicts: dict[str, Verdict] = {}
        console = Console(file=stream)
        description = TextColumn("{task.description}", markup=False)
        self._bar = Bar(
            BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(), description, console=console
        )
        self._task = self._bar.add_task("", total=total)
        self._bar.start()

    def show(self, event: Event) -> None:
        if isinstance(event, CaseStarted):
            self._bar.update(self._task, description=f"{self._counts()}  {event.case_id}")
        elif isinstance(event, CaseEnded):
            self._verdicts[event.result.case_id] = event.result.verdict
            self._bar.update(self._task, completed=len(self._verdicts), description=self._counts())
            if event.result.verdict is Verdict.NOT_RUN:
                return  # counted in the run's last lines
            if self._verbose or event.result.verdict is not Verdict.PASSED:
                lines = case_lines(event.result, self._folder, verbose=self._verbose)
                self._print("\n".join(lines))
        elif self._verbose and (line := _gang_line(event)):
            self._print(line)

    def close(self) -> None:
        self._bar.stop()

    def _counts(self) -> str:
        counts = Counter(self._verdicts.values())
        return " ".join(f"{verdict}={count}" for verdict, count in counts.items())

    def _print(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
