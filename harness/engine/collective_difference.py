"""Compare the collectives that ranks have entered: those of a whole call, or of ranks that hang.

It knows no process groups: ranks that are out of step would wait there for ever. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.engine.collective_records import Entered, Parts, Stage
from harness.record.formatting import numbers_text, ranks_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.engine.collective_records import Sizes, Traced

RULE = (
    "all ranks of a group must enter the same collectives in the same order, with the same dtype "
    "and sizes that fit, even without tokens"
)
_MISSING = {
    Stage.INSIDE: "has not entered",
    Stage.OVER: "ended its call without",
    Stage.RAISED: "raised an error before",
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Hold the first collective of a group that differs. column: what each of its ranks entered."""

    where: str  # the collective's number and its group
    column: dict[int, Parts | None]

    @property
    def missing(self) -> list[int]:
        """Return the ranks that have not entered it."""
        return [rank for rank, parts in self.column.items() if parts is None]

    @property
    def entered(self) -> dict[int, Parts]:
        """Return what the others entered."""
        return {rank: parts for rank, parts in self.column.items() if parts is not None}

    @property
    def text(self) -> str:
        """Return what each rank entered, and the rule."""
        words = _odd_ones(self.column) or _unfit_sizes(self.entered)
        return f"{self.where}: {words}; {RULE}"


def first_difference(logs: Sequence[Entered]) -> str | None:
    """Return a message on the first collective that differs in any group; else None.

    logs: of all ranks. A rank that entered none of a group's collectives is missed by the others.
    """
    all_differences = differences(logs)
    return all_differences[0].text if all_differences else None


def differences(logs: Sequence[Entered]) -> list[Difference]:
    """Return the first difference of each group that has one. logs: of all ranks."""
    members = {name: ranks for log in logs for name, ranks in log.members.items()}
    words = {name: text for log in logs for name, text in log.words.items() if text}
    firsts = (_first_of(logs, name, words.get(name, ""), members[name]) for name in members)
    return [first for first in firsts if first is not None]


def _first_of(
    logs: Sequence[Entered], name: str, words: str, ranks: tuple[int, ...]
) -> Difference | None:
    entered = [[parts for group, parts in logs[r].entries if group == name] for r in ranks]
    for number in range(max(map(len, entered))):
        parts = (of[number] if number < len(of) else None for of in entered)
        column = dict(zip(ranks, parts, strict=True))
        if _odd_ones(column) or _unfit_sizes({r: p for r, p in column.items() if p is not None}):
            group = f"the group {words} of" if words else "the group of"
            place = f"collective {number + 1} of {group} ranks {numbers_text(list(ranks))}"
            return Difference(where=place, column=column)
    return None


def hang_text(traces: Mapping[int, Traced]) -> str:
    """Return which ranks wait in which collective for which others, or how ranks differ; or "".

    traces: of every rank. Of several groups those are told in which a rank is missed that waits in
    no other group; they are the reason why the rest waits.
    """
    newest = max((trace.call for trace in traces.values()), default=0)
    begun = {r: trace.entered if trace.call == newest else Entered() for r, trace in traces.items()}
    if begun.keys() != set(range(len(begun))):
        return ""  # of a rank that never began nothing can be told
    all_differences = differences([begun[rank] for rank in sorted(begun)])
    waiting = {rank for difference in all_differences for rank in difference.entered}
    roots = [
        difference
        for difference in all_differences
        if set(difference.missing) - waiting or not difference.missing
    ]
    texts = [_hang_words(difference, traces, newest) for difference in roots or all_differences]
    return f"call {newest}: {'; '.join(texts)}" if texts else ""


def _hang_words(difference: Difference, traces: Mapping[int, Traced], newest: int) -> str:
    """Return who waits for whom, or the whole difference if ranks entered different ones."""
    kinds = {parts[:3] for parts in difference.entered.values()}
    if not difference.missing or len(kinds) > 1:
        return difference.text
    absent: dict[str, list[int]] = {}
    for rank in difference.missing:
        has_begun = traces[rank].call == newest
        words = _MISSING[traces[rank].stage] if has_begun else "had not begun the call with"
        absent.setdefault(words, []).append(rank)
    absent_text = ", ".join(f"{ranks_text(ranks)} {words}" for words, ranks in absent.items())
    waiting = sorted(difference.entered)
    collective = _words(difference.entered[waiting[0]])
    wait = "waits" if len(waiting) == 1 else "wait"
    return f"{absent_text} {collective}, {difference.where}, where {ranks_text(waiting)} {wait}"


def _odd_ones(column: Mapping[int, Parts | None]) -> str:
    """Return what each rank entered, unless all entered the same. column: of each rank."""
    if len({None if p is None else p[:3] for p in column.values()}) == 1:
        return ""
    by_words: dict[str, list[int]] = {}
    for rank, parts in column.items():
        by_words.setdefault(_words(parts), []).append(rank)
    return "; ".join(f"rank {numbers_text(of)} entered {words}" for words, of in by_words.items())


def _words(parts: Parts | None) -> str:
    if parts is None:
        return "nothing more"
    detail = f" ({parts.detail})" if parts.detail else ""
    sent = parts.sent if isinstance(parts.sent, int) else list(parts.sent)
    return f"{parts.op}{detail}" + (f" of {sent} {parts.dtype}" if parts.dtype else "")


def _unfit_sizes(column: Mapping[int, Parts]) -> str:
    """Return the first pair of ranks of which one sends what the other does not expect."""
    sides = [(p.sent, p.received) for p in column.values()]
    if len(set(sides)) == 1 and sides[0][0] == sides[0][1] and isinstance(sides[0][0], int):
        return ""
    ranks, (op, *_) = list(column), next(iter(column.values()))
    for i, (sent, _) in enumerate(sides):
        for j, (_, received) in enumerate(sides):
            to, expected = _at(sent, j), _at(received, i)
            if to != expected:
                return (
                    f"{op}: rank {ranks[i]} sends {to} elements to rank {ranks[j]}, which expects "
                    f"{expected}"
                )
    return ""


def _at(sizes: Sizes, position: int) -> int:
    return sizes if isinstance(sizes, int) else sizes[position]
