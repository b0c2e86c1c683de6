"""Find what the wrong elements of an output have in common: a clause and its data.

A pattern is reported only if it covers nearly all wrong elements and few correct ones, and is
unlikely by chance (so a single wrong row of thirty has no pattern). Patterns of routing are in
`harness.diagnosis.routing_patterns`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from harness.checks.element_and_bias import beyond
from harness.checks.output import row_tolerance
from harness.record.diagnosis import Pattern as Pattern

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.result import Answer

COVERS = 0.99  # fraction of the wrong rows or columns that a pattern must cover
ROWS_WRONG = 0.9  # fraction of a pattern's rows that must be wrong: a mistake may cancel in some
CHANCE = 0.05  # largest probability of the pattern by chance
COLUMNS_WRONG = 0.6  # fraction of a pattern's columns: a wrong number may be close by luck
BLOCKS = (128, 64, 32, 16, 8)  # block sizes of kernels


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Mark what is wrong in an output. rows: [T] bool. elements: [T, K] bool, in these rows."""

    rows: Tensor
    elements: Tensor

    @cached_property
    def columns(self) -> Tensor:
        """Return [K] bool: columns that are wrong about as often as the worst column."""
        share = self.elements[self.rows].to(torch.float32).mean(dim=0)
        if not len(share) or not bool(self.rows.any()):
            return torch.zeros_like(share, dtype=torch.bool)
        return share > 0.2 * share.amax()

    def with_elements(self, elements: Tensor) -> Mismatch:
        """Return a mask with these elements [T, K] and their rows added."""
        return Mismatch(rows=self.rows | elements.any(dim=1), elements=self.elements | elements)


def find_mismatch(
    actual: Tensor, answer: Answer, eps: float | None = None, factor: float | None = None
) -> Mismatch:
    """Mark rows beyond their tolerance or with NaN or Inf, and the elements responsible.

    Of such a row, elements count whose error exceeds three times the row tolerance per element
    plus a rounding; or, if there are none, those above the tolerance per element. Single elements
    beyond the element tolerance are marked with their rows.
    actual: [T, K]. eps: relative step of its values; None: its dtype's. factor: see
    `harness.checks.output.row_tolerance`.
    """
    values, expected = actual.to(answer.out.dtype), answer.out
    tolerance = row_tolerance(answer, factor)
    error = (values - expected).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    rows = error.square().sum(dim=1) > tolerance.square()
    element_tolerance = tolerance[:, None] / max(values.shape[1], 1) ** 0.5
    rounding = (torch.finfo(actual.dtype).eps if eps is None else eps) * expected.abs()
    elements = (error > 3 * element_tolerance + rounding) & rows[:, None]
    diffuse = rows & ~elements.any(dim=1)  # error spread over the row
    elements |= (error > element_tolerance) & diffuse[:, None]
    return Mismatch(rows=rows, elements=elements).with_elements(beyond(error, answer, actual.dtype))


def of_rows(rows: Tensor, blocks: tuple[int, ...] = BLOCKS) -> list[Pattern]:
    """Return what the numbers of the wrong rows have in common. rows: [T] bool."""
    rows = rows.cpu()  # the search takes many small steps
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


def of_columns(mismatch: Mismatch, blocks: tuple[int, ...] = BLOCKS) -> list[Pattern]:
    """Return what the wrong columns have in common; [] if all columns are wrong."""
    columns = mismatch.columns.cpu()
    total, bad = len(columns), int(columns.sum())
    if bad == 0:
        return []
    slack = 8 // int(
        mismatch.rows.sum()
    )  # in few wrong rows, the edge of a range may be correct by luck
    numbers = columns.nonzero().flatten()
    first, last = _snapped(int(numbers[0]), int(numbers[-1]) + 1, total, slack)
    if bad >= COLUMNS_WRONG * (last - first):
        if last - first >= total - 2 * slack:
            return []
        text, _ = _range_text("column", first, last, total, blocks)
        return [Pattern(name="column_range", text=text, data={"from": first, "to": last})]
    return _periodic(columns, "column", tuple(b for b in (1, *reversed(blocks)) if 2 * b <= total))


def chance(total: int, hits: int, bad: int, tried: float) -> float:
    """Bound the probability that `bad` of `total` rows lie by chance within a set of `hits` rows.

    tried: number of such sets that were tested. A set of all rows explains nothing: 1.0.
    """
    if hits >= total:
        return 1.0
    bad = min(bad, hits)
    ways = _log_choose(hits, bad) - _log_choose(total, bad)
    return min(1.0, math.exp(ways) * tried)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def same(hits: Tensor, bad: Tensor) -> bool:
    """Tell whether hits [T] bool cover nearly all bad rows and few others. bad: [T] bool."""
    bad_hits = int((hits & bad).sum())
    return bad_hits >= COVERS * int(bad.sum()) and bad_hits >= ROWS_WRONG * int(hits.sum())


def _range_text(
    axis: str, first: int, last: int, total: int, blocks: tuple[int, ...]
) -> tuple[str, float]:
    """Return the range in words, and the number of such ranges that were possible."""
    if first == 0 and last == 1:
        return f"the first {axis} only", 2
    if last == total and first == total - 1:
        return f"the last {axis} only", 2
    if last == total:
        start, candidates = f"{axis}s >= {first} only", float(total)
        if axis == "row":
            start = f"{axis}s {first}-{last - 1}"
    elif first == 0:
        start, candidates = f"{axis}s < {last} only", float(total)
    else:
        start, candidates = f"{axis}s {first}-{last - 1} only", total * total / 2
    block = next((b for b in blocks if _is_block(first, last, total, b)), None)
    if block is None:
        return start, candidates
    partly = "the last, partly filled" if last - first < block else "the last"
    block_text = f"{partly} block of {block}" if last == total else f"one block of {block}"
    return f"{start}: {block_text}", len(blocks) * -(-total // block)


def _is_block(first: int, last: int, total: int, block: int) -> bool:
    return first % block == 0 and block < total and last == min(first + block, total)


def _snapped(first: int, last: int, total: int, slack: int) -> tuple[int, int]:
    """Return the range, its ends moved outward to a block boundary within `slack`, if any."""
    for step in BLOCKS:
        if first - first // step * step <= slack:
            first = first // step * step
            break
    for step in BLOCKS:
        up = min(-(-last // step) * step, total)
        if up - last <= slack:
            return first, up
    return first, last


def _periodic(mask: Tensor, axis: str, blocks: tuple[int, ...]) -> list[Pattern]:
    """Return the pattern "every n-th block" of the largest block and shortest period, if any.

    mask: on the CPU.
    """
    inside = ROWS_WRONG if axis == "row" else COLUMNS_WRONG
    total, bad = len(mask), int(mask.sum())
    numbers = torch.arange(total)
    for block in reversed(blocks):
        for period in (2, 4, 8):
            if 2 * period * block > total + block:
                continue
            position = numbers // block % period
            hits_of = torch.bincount(position, minlength=period).tolist()
            bad_hits_of = torch.bincount(position[mask], minlength=period).tolist()
            for start, (hits, bad_hits) in enumerate(zip(hits_of, bad_hits_of, strict=True)):
                if bad_hits < COVERS * bad or bad_hits < inside * hits:
                    continue
                if axis == "row" and chance(total, hits, bad, 50) >= CHANCE:
                    continue
                data = {"block": block, "period": period, "start": start}
                return [Pattern(name=f"{axis}_period", text=_period_text(axis, **data), data=data)]
    return []


def _period_text(axis: str, block: int, period: int, start: int) -> str:
    if block == 1 and period == 2:
        return f"{('even', 'odd')[start]} {axis}s only"
    nth = {2: "second", 4: "fourth", 8: "eighth"}[period]
    if block == 1:
        return f"every {nth} {axis} only, from {start} on"
    suffix = " of K" if axis == "column" else " of rows"
    return f"every {nth} {block}-block{suffix} only, from {axis} {start * block} on"
