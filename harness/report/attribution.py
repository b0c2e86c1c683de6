"""What ranks and calls say of one case: each text once, with those who say it. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.formatting import ranks_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.record.diagnosis import CallDiagnosis

ORDINALS = ("first", "second", "third")

Said = dict[str, list[tuple[int, int]]]  # text -> the (rank, call) pairs that say it


def said(
    calls: list[tuple[int, CallDiagnosis]], texts: Callable[[CallDiagnosis], Sequence[str]]
) -> Said:
    """Each text once, with who said it; what most say first."""
    found: Said = {}
    for rank, call in calls:
        for text in texts(call):
            found.setdefault(text, []).append((rank, call.call))
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def who_says(who: list[tuple[int, int]], everyone: list[tuple[int, int]]) -> str:
    """Empty when all that failed say it."""
    if set(who) == set(everyone):
        return ""
    ranks = sorted({rank for rank, _ in who})
    parts = [] if ranks == sorted({rank for rank, _ in everyone}) else [ranks_text(ranks)]
    which = {call for _, call in who}
    here = {call for rank, call in everyone if rank in ranks}
    parts += [] if which == here else [call_name(min(which))]
    return f" ({', '.join(parts)})" if parts else ""


def call_name(number: int) -> str:
    return f"{ORDINALS[number]} call" if number < len(ORDINALS) else f"call {number + 1}"
