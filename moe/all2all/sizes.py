"""Tell every rank of a group what each of them sends, and refuse what does not fit together.

Without it, ranks whose tensors differ in width or dtype would wait for each other, or read what was
never sent.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moe.collectives import Group
    from moe.types import Activations, Routing

# What must be equal on all ranks of a group, in the order in which it is exchanged.
_EQUAL = (
    "bytes of a row of x",
    "bytes of an element of x",
    "bytes of a row's scales",
    "slots of a token",
    "adapters of a token",
    "capacity of an expert, -1 = for all tokens",
    "experts of each rank (a checksum)",
)
_ANY_CAPACITY = -1


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Hold what each rank of the group sends. counts: tokens. rows: the further numbers passed."""

    counts: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]


def exchange(
    group: Group,
    x: Activations,
    routing: Routing,
    rows: Sequence[int] = (),
    capacity: int | None = None,
    experts_of: tuple[tuple[int, ...], ...] = (),
) -> Sizes:
    """Return the sizes of all ranks of the group. Collective.

    x: [T, K] and routing: [T, k], as passed to `prepare`. rows: further numbers of this rank, as
    many on every rank. capacity: rows that an expert has room for. experts_of: of each rank of the
    group, as this one believes: another map would send tokens where nobody expects them. Raises
    MoEError on every rank if two ranks' rows cannot be exchanged, their maps or capacities differ,
    or the capacity is below 1.
    """
    if group.size == 1:  # nothing to wait for: a compiled or captured call has no host in it
        return Sizes(counts=(len(x.codes),), rows=(tuple(rows),))
    equal = (
        *_of_rows(x),
        routing.topk_ids.shape[1],
        routing.adapters is not None,
        _ANY_CAPACITY if capacity is None else max(capacity, 0),
        zlib.crc32(repr(experts_of).encode()),
    )
    table = group.gather_rows((len(x.codes), *equal, *rows), x.codes.device)
    for i, name in enumerate(_EQUAL, start=1):
        values = [row[i] for row in table]
        if len(set(values)) > 1:
            raise MoEError(
                f"the ranks of a group disagree on the {name}: {', '.join(map(str, values))} in "
                "rank order; call the same layer on all, with tensors of one width and dtype"
            )
    check_capacity(capacity)
    start = 1 + len(_EQUAL)
    return Sizes(
        counts=tuple(row[0] for row in table),
        rows=tuple(tuple(row[start:]) for row in table),
    )


def check_capacity(capacity: int | None) -> None:
    """Raise MoEError for a capacity below 1. None: for all tokens of a call."""
    if capacity is not None and capacity < 1:
        raise MoEError(
            f"capacity is {capacity}: no expert has room for a row; pass at least 1, or None for "
            "room for all tokens"
        )


def _of_rows(x: Activations) -> tuple[int, int, int]:
    """Return the bytes of a row of codes, of an element, and of a row's own scales."""
    width, scale = x.codes.shape[1] * x.codes.element_size(), 0
    if x.scale is not None and x.format.has_row_scales:
        scale = x.scale.shape[1] * x.scale.element_size()
    return width, x.codes.element_size(), scale
