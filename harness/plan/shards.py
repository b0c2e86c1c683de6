"""Split a plan into shards that take about the same time, and say which shard a run is. No torch.

Each point of the suite, refused ones included, is in exactly one shard. Every shard computes the
same split, and its run's folder holds a hash of the suite and one of the split, so that `merge` can
tell whether all shards are of one suite, and together are all of it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.plan.manifest import refused_cases
from harness.plan.plan import compile_key
from harness.record.run_info import ShardOf
from harness.record.shard_union import points_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.matrix.case import MoETestConfig
    from harness.plan.durations import Durations
    from harness.plan.plan import Plan

AUTO = "auto"
Piece = tuple[float, int, tuple[str, ...]]  # seconds, world size, ids
_SHARD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})\Z")
_PIECES = 4  # pieces of a shard: the most by which shards need to differ is one of them
_BUILDKITE = ("BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT")
_SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")
_STEP = "SLURM_ARRAY_TASK_STEP"


def parse(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return index, from 1, and count of `i/n`, or of `auto` from the environment's variables.

    Buildkite's variables come before Slurm's. Raises UsageError.
    """
    if text == AUTO:
        return _from_environment(environment)
    match = _SHARD.match(text)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise UsageError(f"--shard must be i/n with i from 1 to n, or {AUTO}, not {text!r}")
    return index, count


def _from_environment(environment: Mapping[str, str]) -> tuple[int, int]:
    if _BUILDKITE[0] in environment:
        number, count = (_number(environment, name) for name in _BUILDKITE)
        index = number + 1
    elif _SLURM[0] in environment:
        number, count, first = (_number(environment, name) for name in _SLURM)
        step = _number(environment, _STEP) if _STEP in environment else 1
        index = (number - first) // max(step, 1) + 1
    else:
        names = " or ".join((_BUILDKITE[0], _SLURM[0]))
        raise UsageError(f"--shard {AUTO} reads {names}, and neither is set; give i/n")
    if not 1 <= index <= count:
        raise UsageError(f"--shard {AUTO}: the environment says shard {index} of {count}")
    return index, count


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None or not text.isdecimal():
        state = "is not set" if text is None else f"must be a whole number, not {text!r}"
        raise UsageError(f"--shard {AUTO}: {name} {state}")
    return int(text)


def shard(plan: Plan, index: int, count: int, durations: Durations) -> tuple[Plan, ShardOf]:
    """Return a shard's part of a plan. Raises UsageError if there are fewer cases than shards."""
    if count > len(plan.cases) > 0:
        raise UsageError(
            f"--shard {index}/{count}: only {len(plan.cases)} case(s) run here; "
            f"give at most {len(plan.cases)} shard(s)"
        )
    parts = split(plan, count, durations)
    elsewhere = {case_id for i, part in enumerate(parts) for case_id in part if i != index - 1}
    refused = plan.refused.where(i % count == index - 1 for i in range(len(plan.refused)))
    of = ShardOf(
        index=index,
        count=count,
        suite_hash=points_hash(plan.cases.ids(), refused_cases(plan)),
        split_hash=hashlib.sha256(str(parts).encode()).hexdigest(),
    )
    return replace(plan.without(elsewhere), refused=refused), of


def split(plan: Plan, count: int, durations: Durations) -> list[list[str]]:
    """Return the ids of each shard's cases, so that the longest shard is short.

    A shard also needs the start of a gang for each world size that it has. Of two ways the better
    is taken: balanced pieces, and pieces in sequence, in which fewer shards share a world size.
    """
    pieces = _pieces(plan, count, durations)
    ways = [_balanced(pieces, count, durations), _in_sequence(pieces, count, durations)]
    parts = min(ways, key=lambda shards: max(_seconds(part, durations) for part in shards))
    return [[case_id for _, _, ids in part for case_id in ids] for part in parts]


def _balanced(pieces: list[Piece], count: int, durations: Durations) -> list[list[Piece]]:
    """Give the longest piece first, each to the shard that then ends first."""
    parts: list[list[Piece]] = [[] for _ in range(count)]
    for piece in sorted(pieces, key=lambda piece: (-piece[0], piece[2])):
        ends = [_seconds([*part, piece], durations) for part in parts]
        shortest = min(range(count), key=lambda i: (ends[i], len(parts[i]), i))
        parts[shortest].append(piece)
    return parts


def _in_sequence(pieces: list[Piece], count: int, durations: Durations) -> list[list[Piece]]:
    """Cut the pieces in the plan's order, where a shard has its share of what is left."""
    parts: list[list[Piece]] = [[]]
    for i, piece in enumerate(pieces):
        shards_left, pieces_left = count - len(parts), len(pieces) - i
        share = _seconds([*parts[-1], *pieces[i:]], durations) / (shards_left + 1)
        is_full = _seconds([*parts[-1], piece], durations) > 1.05 * share
        if parts[-1] and shards_left and (is_full or pieces_left <= shards_left):
            parts.append([])
        parts[-1].append(piece)
    return parts


def _seconds(part: list[Piece], durations: Durations) -> float:
    starts = sum(durations.start(world) for world in {world for _, world, _ in part})
    return starts + sum(seconds for seconds, _, _ in part)


def _pieces(plan: Plan, count: int, durations: Durations) -> list[Piece]:
    """Return pieces in the plan's order: cases of one world size that share kernels."""
    total = sum(durations.of(case) for case in plan.cases)
    most_seconds = total / (count * _PIECES)
    most_cases = max(1, len(plan.cases) // count)
    pieces = []
    for job in plan.jobs:
        for cases in _alike(job.cases, most_seconds, most_cases, durations):
            seconds = sum(durations.of(case) for case in cases)
            pieces.append((seconds, job.world_size, tuple(case.id for case in cases)))
    return pieces


def _alike(
    cases: Iterable[MoETestConfig], most_seconds: float, most_cases: int, durations: Durations
) -> list[list[MoETestConfig]]:
    """Cut a job's cases where kernels change, and where a piece would be too long."""
    groups: list[list[MoETestConfig]] = []
    seconds, key = 0.0, None
    for case in cases:
        seconds += durations.of(case)
        fits = seconds <= most_seconds and len(groups[-1]) < most_cases if groups else False
        if not fits or compile_key(case) != key:
            groups.append([])
            seconds, key = durations.of(case), compile_key(case)
        groups[-1].append(case)
    return groups
