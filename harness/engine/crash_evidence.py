"""Collect evidence of a failure in a gang: ends of logs, stacks, the log of a failed case."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

_HEAD, _TAIL = 64 << 10, 512 << 10  # bytes kept of each rank's output
_STACK_START = "(most recent call first):"
_BOOTSTRAP = "/harness/engine/rank_bootstrap.py"  # in the stack of a rank's main thread only

_FLIGHT = "flight"  # stem of NCCL's flight records, one file a rank


def flight_pipe(folder: str | Path, rank: int) -> Path:
    """Return the named pipe of a rank; a write to it requests the rank's flight record."""
    return Path(folder) / f"{_FLIGHT}{rank}.pipe"


def flight_file(folder: str | Path, rank: int) -> Path:
    """Return the path of a rank's flight record: JSON of the collectives begun and completed."""
    return Path(folder) / f"{_FLIGHT}{rank}.json"


def ask_for_flights(folder: Path) -> int:
    """Request the record of every rank that has a recorder; return the number of requests."""
    requested = 0
    for pipe in folder.glob(f"{_FLIGHT}*.pipe"):
        with contextlib.suppress(OSError):  # without a reader: the rank has ended
            fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.write(fd, b"1")
            os.close(fd)
            requested += 1
    return requested


def flights(folder: Path) -> list[Path]:
    """Return the paths of the flight records written so far."""
    return sorted(folder.glob(f"{_FLIGHT}*.json"))


def keep_flights(folder: Path, target: Path, stem: str) -> list[str]:
    """Copy the records to `target` as stem.flight0.json, ...; return the names."""
    names = []
    for path in flights(folder):
        names.append(f"{stem}.{path.name}")
        shutil.copyfile(path, target / names[-1])
    return names


def how_ended(code: int) -> str:
    """Describe how a process ended. code: as returned by `os.waitstatus_to_exitcode`."""
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"


_STATES = {"T": "its process is stopped, as by SIGSTOP", "D": "it is in an uninterruptible call"}


def blocked_state(pid: int) -> str:
    """Return why a process answers no signal, or "" if it is not known to be unable to."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
    return _STATES.get(state, "")


def read(path: Path, start: int = 0) -> str:
    """Return a log from byte `start` on, without the middle of a very long one.

    A log that cannot be read is "".
    """
    try:
        with path.open("rb") as file:
            return _head_and_tail(file, start).decode(errors="replace")
    except OSError:
        return ""


def _head_and_tail(file: BinaryIO, start: int) -> bytes:
    size = file.seek(0, 2)
    file.seek(start)
    omitted = size - start - _HEAD - _TAIL
    if omitted <= 0:
        return file.read()
    head = file.read(_HEAD)
    file.seek(size - _TAIL)
    return head + b"\n[... %d bytes left out ...]\n" % omitted + file.read()


def size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def last_lines(text: str, count: int = 12) -> str:
    """Return the last `count` lines that are not blank, indented."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-count:]) or "    (its log is empty)"


def has_stack(text: str) -> bool:
    """Return whether the text holds a stack written by faulthandler."""
    return _STACK_START in text


def main_stack(text: str, frames: int = 10) -> str:
    """Return the innermost frames of the main thread from faulthandler's dump of all threads.

    Frames from the worker on outwards are left out: they are the same in every rank.
    """
    threads = _threads(text)
    in_bootstrap = [t for t in threads if any(_BOOTSTRAP in frame for frame in t)]
    main = next(iter([*in_bootstrap, *threads[-1:]]), [])
    in_worker = [i for i, frame in enumerate(main) if "/harness/worker.py" in frame]
    end = min([frames, *in_worker])
    return "\n".join(f"    {frame}" for frame in main[:end] or main[:frames])


def _threads(text: str) -> list[list[str]]:
    """Return the frames of each thread, the innermost first."""
    threads: list[list[str]] = []
    for line in text.splitlines():
        if line.endswith(_STACK_START):
            threads.append([])
        elif threads and line.startswith("  File "):
            threads[-1].append(line.strip())
    return threads


def write_log(folder: Path, name: str, sections: dict[str, str]) -> str:
    """Write a log with a heading for each section; return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"==== {title} ====\n{text.rstrip()}\n" for title, text in sections.items()]
    (folder / name).write_text("\n".join(parts))
    return name
