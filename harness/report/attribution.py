"""Group what the ranks and calls of a case report: each text once, with its sources. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.record.formatting import ranks_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.record.diagnosis import CallDiagnosis

ORDINALS = ("first", "second", "third")

Sources = dict[str, list[tuple[int, int]]]  # text -> the (rank, call) pairs that report it


def sources_by_text(
    calls: list[tuple[int, CallDiagnosis]], texts: Callable[[CallDiagnosis], Sequence[str]]
) -> Sources:
    """Return each text once with its (rank, call) pairs, the most frequent text first."""
    sources: Sources = {}
    for rank, call in calls:
        for text in texts(call):
            sources.setdefault(text, []).append((rank, call.call))
    return dict(sorted(sources.items(), key=lambda item: -len(item[1])))


def source_suffix(sources: list[tuple[int, int]], failed_calls: list[tuple[int, int]]) -> str:
    """Return " (rank 1, second call)", or "" if every failed call is among the sources."""
    if set(sources) == set(failed_calls):
        return ""
    ranks = sorted({rank for rank, _ in sources})
    parts = [] if ranks == sorted({rank for rank, _ in failed_calls}) else [ranks_text(ranks)]
    call_numbers = {call for _, call in sources}
    failed_numbers = {call for rank, call in failed_calls if rank in ranks}
    parts += [] if call_numbers == failed_numbers else [call_name(min(call_numbers))]
    return f" ({', '.join(parts)})" if parts else ""


def call_name(number: int) -> str:
    """Return "first call" for 0, ..., "call 4" for 3."""
    return f"{ORDINALS[number]} call" if number < len(ORDINALS) else f"call {number + 1}"
