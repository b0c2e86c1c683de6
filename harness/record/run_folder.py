"""Read and write a run's folder: `run.json` (the request), `events.jsonl` and `logs/`.

Events are only appended, and a verdict is on disk before the next case starts, so that a run
survives its controller. Everything else is derived from the folder. If recording fails (a full
disk, a removed folder), there is a warning and no case fails because of it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import CaseError, UsageError, reason_of
from harness.matrix.case import MoETestConfig, short_name
from harness.record.closing import ClosedByWith
from harness.record.events import CaseEnded, RunEnded, from_line, to_line
from harness.record.formatting import numbers_text
from harness.record.run_info import FORMAT, RunInfo
from harness.record.summary import OPEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.record.events import Event
    from harness.record.result import CaseResult

ROOT = Path("runs")  # parent of run folders by default


class RunFolder(ClosedByWith):
    """One run's folder, opened by one writer at a time.

    results: the last result of each case, for a writer; complete even if recording failed.
    lost: the first error because of which something was not recorded, or None.
    """

    def __init__(self, path: Path, info: RunInfo, *, write: bool) -> None:
        self.path = path
        self.info = info
        self.lost: OSError | None = None
        self._named_unreadable = False
        self._file = self._lock() if write else None
        self._torn = self._ends_torn() if write else False
        self.results = last_results(self.events()) if write else {}

    @classmethod
    def create(cls, path: Path, info: RunInfo) -> RunFolder:
        """Create a folder, ready for events. Raises UsageError if it exists and is not empty."""
        try:
            check_new_folder(path)
            path.mkdir(parents=True, exist_ok=True)
            (path / "logs").mkdir()
            _write(path / "run.json", info.to_json())
        except OSError as error:
            raise UsageError(
                f"cannot make the run folder {str(path)!r}: {reason_of(error)}"
            ) from error
        return cls(path, info, write=True)

    @classmethod
    def open(cls, path: Path, *, write: bool = False) -> RunFolder:
        """Open an earlier run's folder to read it, or with `write` to resume the run.

        Raises UsageError if it is not a run folder of this format.
        """
        try:
            data = json.loads((path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            text = f"{str(path)!r} is not a run folder: run.json: {reason_of(error)}"
            raise UsageError(text) from error
        folder = cls(path, RunInfo.from_json(path / "run.json", data), write=write)
        if write and data["format"] != FORMAT:
            folder.write_info()
        return folder

    @property
    def log_dir(self) -> Path:
        return self.path / "logs"

    def append(self, event: Event) -> None:
        """Append an event; verdicts and the end of the run are on disk when this returns."""
        if self._file is None:
            raise ValueError(f"the run folder {str(self.path)!r} was opened for reading only")
        if isinstance(event, CaseEnded):
            self.results[event.result.case_id] = event.result
        data = to_line(event).encode()
        try:
            if self._torn:
                data, self._torn = b"\n" + data, False
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(f"only {written} of {len(data)} bytes were written")
            if isinstance(event, CaseEnded | RunEnded):
                os.fsync(self._file)
        except OSError as error:
            self._torn = True
            self._warn(error)

    def events(self) -> list[Event]:
        """Return every event recorded so far, and warn about lines that cannot be read.

        A last line that a crash cut off is skipped without a warning. Raises UsageError if the
        file cannot be read; a run that has recorded nothing yet may have none.
        """
        try:
            text = (self.path / "events.jsonl").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            text = f"cannot read the events of {str(self.path)!r}: {reason_of(error)}"
            raise UsageError(text) from error
        events, unreadable = _parse(text)
        self._name_unreadable(unreadable)
        return events

    def cases_of(self, ids: Iterable[str]) -> tuple[MoETestConfig, ...]:
        """Return recorded cases by their ids. Raises UsageError for an id that cannot be read."""
        try:
            return tuple(map(MoETestConfig.from_id, ids))
        except CaseError as error:
            raise UsageError(
                f"the run folder {str(self.path)!r}: {error}; read it with the version of the "
                "harness that wrote it, or start a new run"
            ) from error

    def name_cases(self, ids: list[str]) -> None:
        """Replace the cases in `run.json`, for a run that draws its cases while it runs."""
        self.info = dataclasses.replace(self.info, cases=tuple(ids))
        self.write_info()

    def write_info(self) -> None:
        """Write `run.json` anew, in the present format: what is appended has that format, too."""
        try:
            _write(self.path / "run.json", self.info.to_json())
        except OSError as error:
            self._warn(error)

    def write_summary(self, summary: dict[str, Any]) -> None:
        try:
            _write(self.path / "summary.json", summary)
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            file = os.open(self.path / "events.jsonl", flags, 0o644)
        except OSError as error:
            raise UsageError(
                f"cannot write to the run folder {str(self.path)!r}: {reason_of(error)}"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise UsageError(f"another run is writing to {str(self.path)!r}") from error
        except OSError as error:  # a file system without locks: record without one
            print(f"warning: cannot lock {str(self.path)!r}: {error}", file=sys.stderr)
        return file

    def _ends_torn(self) -> bool:
        """Return whether the last line has no newline, as after a crash during a write."""
        assert self._file is not None
        size = os.fstat(self._file).st_size
        return size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def _name_unreadable(self, numbers: list[int]) -> None:
        if numbers and not self._named_unreadable:
            print(
                f"warning: {str(self.path / 'events.jsonl')!r}: skipped {len(numbers)} unreadable "
                f"line(s): {numbers_text(numbers)}; a verdict recorded there is lost",
                file=sys.stderr,
            )
            self._named_unreadable = True

    def _warn(self, error: OSError) -> None:
        if self.lost is None:
            text = f"warning: cannot record in {str(self.path)!r}: {error}; the run continues"
            print(text, file=sys.stderr)
        self.lost = self.lost or error


def check_new_folder(path: Path) -> None:
    """Raise UsageError for the path of a new run that is in use, or lies below a file."""
    existing = next(part for part in (path, *path.parents) if part.exists())
    if not existing.is_dir():
        raise UsageError(f"cannot make the run folder {str(path)!r}: {existing} is not a folder")
    if path.is_dir() and any(path.iterdir()):
        raise UsageError(
            f"the folder {str(path)!r} is not empty; choose another with --out, "
            "or resume that run with --resume"
        )


def _write(path: Path, data: dict[str, Any]) -> None:
    """Replace a file atomically: no reader sees a part of it."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def _parse(text: str) -> tuple[list[Event], list[int]]:
    """Return the events, and the numbers of lines that are not events, except a torn last one."""
    events: list[Event] = []
    unreadable: list[int] = []
    *lines, torn = text.split("\n")
    for number, line in enumerate([*lines, *([torn] if torn else [])], 1):
        try:
            events.append(from_line(line))
        except (ValueError, TypeError, KeyError):
            unreadable += [number] if number <= len(lines) else []
    return events, unreadable


def last_results(events: Iterable[Event]) -> dict[str, CaseResult]:
    """Return the last result of each case, in the order of their first results."""
    results: dict[str, CaseResult] = {}
    for event in events:
        if isinstance(event, CaseEnded):
            results[event.result.case_id] = event.result
    return results


def decided(results: Mapping[str, CaseResult]) -> set[str]:
    """Return the ids of cases that need not run again."""
    return {case for case, result in results.items() if result.verdict not in OPEN}


def newest(root: Path = ROOT) -> Path:
    """Return the most recently started run folder in `root`. Raises UsageError if none exists."""
    folders = [path.parent for path in root.glob("*/run.json")]
    if not folders:
        raise UsageError(f"no run folder under {str(root)!r}; start with run --suite NAME")
    return max(folders, key=lambda path: (path / "run.json").stat().st_mtime_ns)


def log_name(case_id: str, attempt: int) -> str:
    """Return the file name of a case's log: its id, shortened if too long for a file system."""
    name = short_name(case_id)
    return f"{name}.log" if attempt == 1 else f"{name}.{attempt}.log"
