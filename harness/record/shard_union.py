"""Check that runs are the shards of one suite, each once, and join what they record. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from typing import TYPE_CHECKING

from harness.errors import ExitCode, HarnessError, UsageError
from harness.record.events import CaseEnded, CaseStarted, GangEnded, GangStarted, RunEnded
from harness.record.formatting import numbers_text
from harness.record.run_folder import last_results
from harness.record.summary import OPEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from harness.record.events import Event
    from harness.record.run_folder import RunFolder
    from harness.record.run_info import RefusedCase, RunInfo, ShardOf


class MissingShards(HarnessError):
    """Report that shards of a suite are missing: run them, and merge again."""

    exit_code = ExitCode.INCOMPLETE


def points_hash(cases: Iterable[str], refused: Iterable[RefusedCase]) -> str:
    """Return a hash of every point of a suite, in any order: whether it runs, and why not."""
    lines = [f"run {case}" for case in cases]
    lines += [f"{point.code} {point.case}" for point in refused]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def joined(folders: Sequence[RunFolder]) -> RunInfo:
    """Return the contents of `run.json` for all shards as one run.

    Raises UsageError unless they are shards of the same suite, split alike, of the same revision,
    with the same options, on the same platform, each once; MissingShards if some are absent.
    """
    shards = [_shard(folder) for folder in folders]
    _check_alike(folders, shards)
    _check_once(folders, shards)
    ordered = [folder for _, folder in sorted(zip(_indices(shards), folders, strict=True))]
    infos = [folder.info for folder in ordered]
    cases = tuple(case for info in infos for case in info.cases)
    refused = tuple(point for info in infos for point in info.refused)
    if points_hash(cases, refused) != _shard(ordered[0]).suite_hash:
        raise UsageError(_not_the_suite(cases, refused))
    versions = {name: text for info in infos for name, text in info.versions.items()}
    first = infos[0]
    began = min(info.time for info in infos)
    return dataclasses.replace(
        first, cases=cases, refused=refused, versions=versions, time=began, shard=None
    )


def _not_the_suite(cases: Sequence[str], refused: Sequence[RefusedCase]) -> str:
    """Return how the union of all shards differs from the suite, as far as it can be told."""
    counts = Counter([*cases, *(point.case for point in refused)])
    twice = [case for case, count in counts.items() if count > 1]
    if twice:
        return f"{len(twice)} case(s) are in several shards, such as {twice[0]}"
    return "together the shards are not the suite: a run.json was changed after its run began"


def _indices(shards: Iterable[ShardOf]) -> list[int]:
    return [shard.index for shard in shards]


def _shard(folder: RunFolder) -> ShardOf:
    if folder.info.shard is None:
        raise UsageError(f"{str(folder.path)!r} is not a shard: it was run without --shard")
    return folder.info.shard


def _check_alike(folders: Sequence[RunFolder], shards: Sequence[ShardOf]) -> None:
    """Raise UsageError, which names what differs between the first and another run."""
    for folder, shard in zip(folders, shards, strict=True):
        pairs = {
            "suite": (folders[0].info.suite, folder.info.suite),
            "revision": (folders[0].info.git, folder.info.git),
            "platform": (folders[0].info.platform.name, folder.info.platform.name),
            "number of shards": (shards[0].count, shard.count),
            "hash of the suite": (shards[0].suite_hash[:12], shard.suite_hash[:12]),
            "hash of the split": (shards[0].split_hash[:12], shard.split_hash[:12]),
            "time limit": (
                folders[0].info.options.time_limit,
                folder.info.options.time_limit,
            ),
        }
        for name, (value, other) in pairs.items():
            if value != other:
                raise UsageError(
                    f"{str(folders[0].path)!r} and {str(folder.path)!r} are not shards of one "
                    f"run: the {name} is {value} and {other}{_WHY.get(name, '')}"
                )


_WHY = {
    "hash of the split": "; give every shard the same --durations-from",
    "hash of the suite": "; their cases, or what their machines can run, differ",
}


def _check_once(folders: Sequence[RunFolder], shards: Sequence[ShardOf]) -> None:
    """Raise UsageError for a shard that is given twice, MissingShards for one that is absent."""
    first: dict[int, RunFolder] = {}
    for folder, shard in zip(folders, shards, strict=True):
        other = first.setdefault(shard.index, folder)
        if other is not folder:
            raise UsageError(
                f"shard {shard.index}/{shard.count} is given twice: "
                f"{str(other.path)!r} and {str(folder.path)!r}"
            )
    count = shards[0].count
    missing = sorted(set(range(1, count + 1)) - first.keys())
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise MissingShards(
            f"shard{plural} {numbers_text(missing)} of {count} {'are' if plural else 'is'} missing:"
            " nothing was merged; run what is missing with --shard and merge again"
        )


def joined_events(shards: Iterable[Sequence[Event]]) -> Iterator[Event]:
    """Yield the events of all shards, one shard after another, with their gangs renumbered.

    shards: the events of each. What begins and ends each shard is left out: the caller writes what
    does so for the whole.
    """
    gangs = 0
    for events in shards:
        highest = 0
        for event in events:
            if isinstance(event, GangStarted | GangEnded | CaseStarted | CaseEnded):
                highest = max(highest, event.gang)
                yield dataclasses.replace(event, gang=event.gang + gangs)
        gangs += highest


def ended_at(shards: Iterable[Sequence[Event]]) -> float:
    """Return when the last event of all shards was recorded. shards: the events of each."""
    return max((event.time for events in shards for event in events[-1:]), default=0.0)


def is_unfinished(folder: RunFolder, events: Sequence[Event]) -> bool:
    """Return whether a shard has cases without a verdict, or did not end. events: its own."""
    results = last_results(events)
    is_open = any(c not in results or results[c].verdict in OPEN for c in folder.info.cases)
    return is_open or not (events and isinstance(events[-1], RunEnded))
