"""Hold the collectives of a call as plain data, and keep them where a controller can read them.

A rank that hangs answers nothing any more. What it has entered is in a file of its gang's folder by
then, one line of JSON for each collective. Torch-free.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

Sizes = int | tuple[int, ...]  # to or from each rank of the group, in its order; one number: all
MAX_ENTRIES = 20_000  # of one call that are written: a layer in an endless loop fills no disk


class Parts(NamedTuple):
    """One collective without its group."""

    op: str
    detail: str  # the reduction or the root; sizes of tensors that are sent together
    dtype: str
    sent: Sizes
    received: Sizes


class Entry(NamedTuple):
    """One collective of a rank. group: torch's name of it, the same on all ranks."""

    group: str
    parts: Parts


@dataclass(kw_only=True)
class Entered:
    """Hold a rank's collectives of a call in the order in which it entered them.

    members: name of a group -> its ranks. words: name of a group -> what the layout calls it.
    """

    entries: list[Entry] = field(default_factory=list)
    members: dict[str, tuple[int, ...]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps([self.members, self.words, self.entries])


def from_json(text: str | bytes) -> Entered:
    """Return what `to_json` was called of."""
    members, words, entries = json.loads(text)
    return Entered(
        entries=[_entry(name, parts) for name, parts in entries],
        members={name: tuple(ranks) for name, ranks in members.items()},
        words=words,
    )


def _entry(name: str, parts: list[Any]) -> Entry:
    op, detail, dtype, *sizes = parts
    sent, received = (tuple(size) if isinstance(size, list) else size for size in sizes)
    return Entry(name, Parts(op, detail, dtype, sent, received))


class Stage(StrEnum):
    """Where a rank is in the call of its trace."""

    INSIDE = "inside"
    OVER = "over"
    RAISED = "raised"


@dataclass(frozen=True, kw_only=True)
class Traced:
    """Hold what a rank's file says. call: number of the call, from 1 on; 0: none has begun."""

    call: int = 0
    entered: Entered = field(default_factory=Entered)
    stage: Stage = Stage.OVER


def trace_file(folder: str | Path, rank: int) -> Path:
    """Return the file with the collectives of a rank's latest call."""
    return Path(folder) / f"collectives{rank}.jsonl"


class CollectiveTrace:
    """Write the collectives of a rank's latest call to its file, each before it is entered."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        self._entries = 0

    def clear(self) -> None:
        """Forget the calls of an earlier case."""
        os.ftruncate(self._file, 0)

    def begin(self, call: int) -> None:
        """Begin a call, and forget the one before. call: its number, from 1 on."""
        self.clear()
        self._entries = 0
        self._write(["call", call])

    def add_group(self, name: str, ranks: tuple[int, ...], words: str) -> None:
        """Tell of a group before its first collective; see Entered."""
        self._write(["group", name, ranks, words])

    def enter(self, entry: Entry) -> None:
        """Tell of a collective that is about to be entered."""
        self._entries += 1
        if self._entries <= MAX_ENTRIES:
            self._write(["enter", *entry])

    def end(self, stage: Stage) -> None:
        """End the call."""
        self._write(["end", stage])

    def _write(self, line: list[Any]) -> None:
        with contextlib.suppress(OSError):  # a full disk costs the evidence and not the case
            os.write(self._file, json.dumps(line).encode() + b"\n")


def read_traces(folder: Path, world_size: int) -> dict[int, Traced]:
    """Return what each rank's file says; a rank without a file is left out."""
    traces = {}
    for rank in range(world_size):
        with contextlib.suppress(OSError):
            traces[rank] = _traced(trace_file(folder, rank).read_text().splitlines())
    return traces


def _traced(lines: list[str]) -> Traced:
    """Return what the lines of a file say, up to one that is not finished."""
    call, stage, entered = 0, Stage.OVER, Entered()
    for line in lines:
        try:
            word, *values = json.loads(line)
        except ValueError:
            break
        if word == "call":
            call, stage = values[0], Stage.INSIDE
        elif word == "group":
            entered.members[values[0]] = tuple(values[1])
            entered.words[values[0]] = values[2]
        elif word == "enter":
            entered.entries.append(_entry(*values))
        else:
            stage = Stage(values[0])
    return Traced(call=call, entered=entered, stage=stage)
