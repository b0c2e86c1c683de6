"""Numbers of a diagnosis in words: how much is wrong, which elements, which ranks. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.record.diagnosis import Element, Facts, Values

FEW_COLUMNS = 0.9  # of all: above that, the others may be right by luck and are not listed


def amount_text(facts: Facts) -> str:
    """How much of an output is wrong."""
    rows, columns = facts.rows, facts.columns
    parts = [f"{rows.wrong} of {rows.of} rows"]
    if 0 < rows.wrong < rows.of:
        parts[0] += f" ({rows.which})"
    parts.append(f"{columns.wrong} of {columns.of} columns")
    if 0 < columns.wrong < FEW_COLUMNS * columns.of:
        parts[1] += f" ({columns.which})"
    return ", ".join(parts)


def fact_lines(facts: Facts) -> Iterator[str]:
    """First and worst element with both values, both sides' ranges, errors over all."""
    if facts.first is not None:
        yield _element_line("first", facts.first)
    if facts.worst is not None and facts.worst != facts.first:
        yield _element_line("worst", facts.worst)
    got, expected = facts.actual, facts.expected
    text = f"  values {_range(got)}, expected {_range(expected)}"
    yield f"{text}; NaN {got.nan}, Inf {got.inf}"
    error = f"  relative rms error {facts.rel_rms:.4g}, 1-cosine {facts.one_minus_cosine:.3g}"
    if got.zero_rows:
        error += f"; all zero: rows {got.zero_rows}"
    if got.unwritten_rows:
        error += f"; all NaN, so perhaps never written: rows {got.unwritten_rows}"
    yield error


def _element_line(name: str, element: Element) -> str:
    values = _both(element.actual, element.expected)
    off = element.over_rms
    distance = "" if off is None else f", off by {off:.3g}x its row's rms"
    return f"  {name} wrong element [{element.row}, {element.column}] {values}{distance}"


def _range(side: Values) -> str:
    if side.min is None or side.max is None:
        return "none finite"
    return f"{_short(side.min)}..{_short(side.max)}"


def _both(actual: float | str, expected: float | str) -> str:
    """Both values, with as many digits as tell them apart."""
    for digits in (5, 8, 11, 17):
        got, want = _short(actual, digits), _short(expected, digits)
        if got != want:
            break
    return f"is {got}, expected {want}"


def _short(value: float | str, digits: int = 5) -> str:
    return value if isinstance(value, str) else f"{value:.{digits}g}"


def ranks_text(ranks: list[int]) -> str:
    """[0, 1, 2, 5] -> "ranks 0-2, 5"."""
    runs: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return f"rank{'s' if len(set(ranks)) > 1 else ''} {', '.join(parts)}"


def experts_text(shares: dict[str, tuple[int, int]], max_experts: int = 6) -> str:
    """Only where the experts differ clearly."""
    ranked = sorted(shares.items(), key=lambda item: (-item[1][0] / item[1][1], -item[1][1]))
    parts = [wrong / rows for _, (wrong, rows) in ranked]
    if not parts or parts[0] < 0.9 or parts[-1] > 0.6:
        return ""
    some = ", ".join(f"{e}: {wrong} of {rows}" for e, (wrong, rows) in ranked[:max_experts])
    return f"wrong rows by expert: {some}{', ...' if len(ranked) > max_experts else ''}"


def percent(share: float) -> str:
    if share < 0.0005:
        return "less than 0.1 %"
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def numbers_text(numbers: list[int], max_runs: int = 6) -> str:
    """[0, 1, 2, 7] -> "0-2, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:max_runs]]
    return ", ".join(parts + ["..."] * (len(runs) > max_runs))
