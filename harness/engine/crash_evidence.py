"""Evidence of what went wrong in a gang: ends of logs, stacks, and the log of a failed case."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

_HEAD, _TAIL = 64 << 10, 512 << 10  # bytes kept of each rank's output
_STACK_START = "(most recent call first):"

_FLIGHT = "flight"  # stem of NCCL's flight records, one file a rank


def flight_pipe(folder: str | Path, rank: int) -> Path:
    """A named pipe: whoever writes to it asks the rank for its flight record."""
    return Path(folder) / f"{_FLIGHT}{rank}.pipe"


def flight_file(folder: str | Path, rank: int) -> Path:
    """The record, as JSON: the collectives that a rank had begun and completed."""
    return Path(folder) / f"{_FLIGHT}{rank}.json"


def ask_for_flights(folder: Path) -> int:
    """Ask every rank that has a recorder for its record; returns how many were asked."""
    requested = 0
    for pipe in folder.glob(f"{_FLIGHT}*.pipe"):
        with contextlib.suppress(OSError):  # nobody reads it: the rank is gone
            fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.write(fd, b"1")
            os.close(fd)
            requested += 1
    return requested


def flights(folder: Path) -> list[Path]:
    """Flight records that are there."""
    return sorted(folder.glob(f"{_FLIGHT}*.json"))


def keep_flights(folder: Path, target: Path, stem: str) -> list[str]:
    """Copy the records to `target` as stem.flight0.json, ...; returns the names."""
    names = []
    for path in flights(folder):
        names.append(f"{stem}.{path.name}")
        shutil.copyfile(path, target / names[-1])
    return names


def how_ended(code: int) -> str:
    """A process's end in words; `code` as os.waitstatus_to_exitcode gives it."""
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"


def read(path: Path, start: int = 0) -> str:
    """A log from byte `start` on; a very long one without its middle, empty if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(start)
            if size - start <= _HEAD + _TAIL:
                data = file.read()
            else:
                head = file.read(_HEAD)
                file.seek(size - _TAIL)
                data = head + b"\n[... %d bytes left out ...]\n" % (size - start - _HEAD - _TAIL)
                data += file.read()
    except OSError:
        return ""
    return data.decode(errors="replace")


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def last_lines(text: str, count: int = 12) -> str:
    """The last lines that say something, indented."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-count:]) or "    (its log is empty)"


def has_stack(text: str) -> bool:
    return _STACK_START in text


def main_stack(text: str, frames: int = 10) -> str:
    """The innermost frames of the main thread from faulthandler's dump of all threads."""
    threads: list[list[str]] = []
    for line in text.splitlines():
        if line.endswith(_STACK_START):
            threads.append([])
        elif threads and line.startswith("  File "):
            threads[-1].append(line.strip())
    main = next(
        (t for t in threads if any("/harness/engine/rank_bootstrap.py" in f for f in t)), None
    )
    if main is None:
        main = threads[-1] if threads else []
    in_worker = [i for i, frame in enumerate(main) if "/harness/worker.py" in frame]
    end = min([frames, *in_worker])
    return "\n".join(f"    {frame}" for frame in main[:end] or main[:frames])


def write_log(folder: Path, name: str, sections: dict[str, str]) -> str:
    """Write what each rank printed, and the messages; returns the name."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"==== {title} ====\n{text.rstrip()}\n" for title, text in sections.items()]
    (folder / name).write_text("\n".join(parts))
    return name
