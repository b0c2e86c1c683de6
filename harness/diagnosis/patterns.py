"""What the wrong elements of an output have in common: a sentence and its data.

A pattern is said only when it holds: nearly all that is wrong lies within it, little that is right
does, and chance would hardly have drawn it (so a single wrong row of thirty has no pattern).
Patterns of routing are in `routed.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.element_and_bias import beyond
from harness.checks.output import bound
from harness.record.diagnosis import Pattern as Pattern

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.result import Answer

COVERS = 0.99  # of what is wrong that a pattern must hold
ROWS_WRONG = 0.9  # of a pattern's rows that must be wrong: a mistake may cancel in a few
CHANCE = 0.05  # the largest probability that the rows fell so by themselves
COLUMNS_WRONG = 0.6  # of a pattern's columns: a wrong number may be right by luck
BLOCKS = (128, 64, 32, 16, 8)  # sizes that kernels cut rows and columns into


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """What is wrong in an output. rows: [T] bool; elements: [T, K] bool, in these rows only."""

    rows: Tensor
    elements: Tensor

    @property
    def columns(self) -> Tensor:
        """[K] bool: columns that are wrong in a fair share of the wrong rows."""
        share = self.elements[self.rows].to(torch.float32).mean(dim=0)
        if not len(share) or not bool(self.rows.any()):
            return torch.zeros_like(share, dtype=torch.bool)
        return share > 0.2 * share.amax()

    def with_elements(self, elements: Tensor) -> Wrong:
        """These elements [T, K] are wrong, too, and so are their rows."""
        return Wrong(rows=self.rows | elements.any(dim=1), elements=self.elements | elements)


def find_wrong(
    actual: Tensor, answer: Answer, eps: float | None = None, margin: float | None = None
) -> Wrong:
    """actual: [T, K]; eps: relative step of its values, where its dtype does not tell.
    margin: of a row's bound, see `compare.bound`.

    Rows beyond their bound, or with NaN or Inf; of these the elements that
    are off by more than six times what the row's bound gives one, and a rounding.
    And single elements that are too far off, with their rows."""
    got, expected = actual.to(answer.out.dtype), answer.out
    allowed = bound(answer, margin)
    off = (got - expected).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    rows = off.square().sum(dim=1) > allowed.square()
    each = allowed[:, None] / max(got.shape[1], 1) ** 0.5
    rounding = (torch.finfo(actual.dtype).eps if eps is None else eps) * expected.abs()
    elements = (off > 3 * each + rounding) & rows[:, None]
    thin = rows & ~elements.any(dim=1)  # spread below that: take what is above the average
    elements |= (off > each) & thin[:, None]
    return Wrong(rows=rows, elements=elements).with_elements(beyond(off, answer, actual.dtype))


def of_rows(rows: Tensor, blocks: tuple[int, ...] = BLOCKS) -> list[Pattern]:
    """rows: [T] bool, which are wrong. What their numbers have in common."""
    total, bad = len(rows), int(rows.sum())
    if bad == 0:
        return []
    if bad >= COVERS * total:
        return [Pattern(name="all_rows", text="all rows", data={"rows": total})]
    numbers = rows.nonzero().flatten()
    first, last = int(numbers[0]), int(numbers[-1]) + 1
    length = last - first
    if bad >= ROWS_WRONG * length:
        text, tried = _range_text("row", first, last, total, blocks)
        if chance(total, length, bad, tried) < CHANCE:
            return [Pattern(name="row_range", text=text, data={"from": first, "to": last})]
    return _periodic(rows, "row", tuple(b for b in (1, *reversed(blocks)) if 2 * b <= total))


def of_columns(wrong: Wrong, blocks: tuple[int, ...] = BLOCKS) -> list[Pattern]:
    """What the wrong columns have in common; nothing when they are all of them."""
    columns = wrong.columns
    total, bad = len(columns), int(columns.sum())
    if bad == 0:
        return []
    slack = 8 // int(wrong.rows.sum())  # a few wrong rows may be right at a range's very edge
    numbers = columns.nonzero().flatten()
    first, last = _snapped(int(numbers[0]), int(numbers[-1]) + 1, total, slack)
    if bad >= COLUMNS_WRONG * (last - first):
        if last - first >= total - 2 * slack:
            return []
        text, _ = _range_text("column", first, last, total, blocks)
        return [Pattern(name="column_range", text=text, data={"from": first, "to": last})]
    return _periodic(columns, "column", tuple(b for b in (1, *reversed(blocks)) if 2 * b <= total))


def chance(total: int, hits: int, bad: int, tried: float) -> float:
    """At most how probable it is that `bad` of `total` rows all lie within some `hits` of them
    by themselves, when `tried` such sets were looked at. A set of all rows explains nothing."""
    if hits >= total:
        return 1.0
    bad = min(bad, hits)
    ways = _log_choose(hits, bad) - _log_choose(total, bad)
    return min(1.0, math.exp(ways) * tried)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def same(hits: Tensor, bad: Tensor) -> bool:
    """[T] bool both: nearly all bad rows are hit, and hardly any right one."""
    both = int((hits & bad).sum())
    return both >= COVERS * int(bad.sum()) and both >= ROWS_WRONG * int(hits.sum())


def _range_text(
    what: str, first: int, last: int, total: int, blocks: tuple[int, ...]
) -> tuple[str, float]:
    """The range in words, and among how many such ranges it was found."""
    if first == 0 and last == 1:
        return f"the first {what} only", 2
    if last == total and first == total - 1:
        return f"the last {what} only", 2
    if last == total:
        start, tried = f"{what}s >= {first} only", float(total)
        if what == "row":
            start = f"{what}s {first}-{last - 1}"
    elif first == 0:
        start, tried = f"{what}s < {last} only", float(total)
    else:
        start, tried = f"{what}s {first}-{last - 1} only", total * total / 2
    block = next((b for b in blocks if _is_block(first, last, total, b)), None)
    if block is None:
        return start, tried
    partly = "the last, partly filled" if last - first < block else "the last"
    which = f"{partly} block of {block}" if last == total else f"one block of {block}"
    return f"{start}: {which}", len(blocks) * -(-total // block)


def _is_block(first: int, last: int, total: int, block: int) -> bool:
    return first % block == 0 and block < total and last == min(first + block, total)


def _snapped(first: int, last: int, total: int, slack: int) -> tuple[int, int]:
    """The range widened to an even place, if one lies within `slack`."""
    for step in BLOCKS:
        if first - first // step * step <= slack:
            first = first // step * step
            break
    for step in BLOCKS:
        up = min(-(-last // step) * step, total)
        if up - last <= slack:
            return first, up
    return first, last


def _periodic(mask: Tensor, what: str, blocks: tuple[int, ...]) -> list[Pattern]:
    """Every second, fourth, ... block: the largest block and shortest period that fit."""
    inside = ROWS_WRONG if what == "row" else COLUMNS_WRONG
    total, bad = len(mask), int(mask.sum())
    for block in reversed(blocks):
        for period in (2, 4, 8):
            if 2 * period * block > total + block:
                continue
            place = torch.arange(total, device=mask.device) // block % period
            for start in range(period):
                hits = place == start
                held = int((hits & mask).sum())
                if held < COVERS * bad or held < inside * int(hits.sum()):
                    continue
                if what == "row" and chance(total, int(hits.sum()), bad, 50) >= CHANCE:
                    continue
                data = {"block": block, "period": period, "start": start}
                return [Pattern(name=f"{what}_period", text=_period_text(what, **data), data=data)]
    return []


def _period_text(what: str, block: int, period: int, start: int) -> str:
    if block == 1 and period == 2:
        return f"{('even', 'odd')[start]} {what}s only"
    nth = {2: "second", 4: "fourth", 8: "eighth"}[period]
    if block == 1:
        return f"every {nth} {what} only, from {start} on"
    of = " of K" if what == "column" else " of rows"
    return f"every {nth} {block}-block{of} only, from {what} {start * block} on"
