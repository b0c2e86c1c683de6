"""Agree which rows of the buffers of a group of ranks are whose, from numbers that all ranks know.

Every rank computes the places of all, so that a sender knows where its rows go without being told.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Places:
    """Say which rows of which buffers are whose. S ranks; each list has one number a rank.

    counts: tokens of each rank. room: rows of the buffers. used: those handed to the experts here.
    starts: first row of this rank's tokens on each rank. fill: rows reserved there. came, limits:
    first row here of each rank's tokens, and their largest number. returns: first row of what goes
    back from here in each rank's buffer. back: the same of what comes back to this rank. back_room:
    rows of the buffers for the way back.
    """

    counts: tuple[int, ...]
    room: int
    used: int
    starts: Sequence[int]
    fill: int
    came: Sequence[int]
    limits: Sequence[int]
    returns: Sequence[int]
    back: Sequence[int]
    back_room: int


def one_after_the_other(
    counts: tuple[int, ...], sent: tuple[tuple[int, ...], ...], rank: int
) -> Places:
    """Return exact places. sent: [S][S], rows from each rank to each."""
    received = [sum(row[d] for row in sent) for d in range(len(sent))]
    came = _begins([row[rank] for row in sent])
    return Places(
        counts=counts,
        room=max(received),
        used=received[rank],
        starts=tuple(sum(row[d] for row in sent[:rank]) for d in range(len(sent))),
        fill=0,
        came=came,
        limits=tuple(row[rank] for row in sent),
        returns=tuple(sum(row[:rank]) for row in sent),
        back=_begins(sent[rank]),
        back_room=max(sum(row) for row in sent),
    )


def _begins(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return where each part begins, of parts of these sizes."""
    return tuple(accumulate(sizes, initial=0))[:-1]


def reserved(counts: tuple[int, ...], capacity: int, rank: int) -> Places:
    """Return places of `capacity` rows for each rank on each rank."""
    if max(counts) > capacity:
        raise MoEError(
            f"the ranks of a group have {', '.join(map(str, counts))} tokens in rank order, and "
            f"the capacity is {capacity}: give more capacity, or send fewer tokens at a time"
        )
    ranks = len(counts)
    begins = tuple(capacity * r for r in range(ranks))
    return Places(
        counts=counts,
        room=capacity * ranks,
        used=capacity * ranks,
        starts=(capacity * rank,) * ranks,
        fill=capacity,
        came=begins,
        limits=(capacity,) * ranks,
        returns=(capacity * rank,) * ranks,
        back=begins,
        back_room=capacity * ranks,
    )
