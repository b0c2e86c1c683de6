"""Format the numbers of a diagnosis: how much is wrong, which elements, which ranks. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.record.diagnosis import Element, Facts, Values

FEW_COLUMNS = 0.9  # fraction of wrong columns above which they are not listed


def amount_text(facts: Facts) -> str:
    """Return how much of an output is wrong."""
    rows, columns = facts.rows, facts.columns
    parts = [f"{rows.wrong} of {rows.of} rows"]
    if 0 < rows.wrong < rows.of:
        parts[0] += f" ({rows.numbers})"
    parts.append(f"{columns.wrong} of {columns.of} columns")
    if 0 < columns.wrong < FEW_COLUMNS * columns.of:
        parts[1] += f" ({columns.numbers})"
    return ", ".join(parts)


def fact_lines(facts: Facts) -> Iterator[str]:
    """Yield the first and worst element, both sides' ranges, and errors over all elements."""
    if facts.first is not None:
        yield _element_line("first", facts.first)
    if facts.worst is not None and facts.worst != facts.first:
        yield _element_line("worst", facts.worst)
    actual, expected = facts.actual, facts.expected
    text = f"  values {_range(actual)}, expected {_range(expected)}"
    yield f"{text}; NaN {actual.nan}, Inf {actual.inf}"
    error = f"  relative rms error {facts.rel_rms:.4g}, 1-cosine {facts.one_minus_cosine:.3g}"
    if actual.zero_rows:
        error += f"; all zero: rows {actual.zero_rows}"
    if actual.unwritten_rows:
        error += f"; all NaN (never written, or computed from NaN): rows {actual.unwritten_rows}"
    yield error


def _element_line(name: str, element: Element) -> str:
    values = _value_pair(element.actual, element.expected)
    off = element.over_rms
    distance = "" if off is None else f", off by {off:.3g}x its row's rms"
    return f"  {name} wrong element [{element.row}, {element.column}] {values}{distance}"


def _range(side: Values) -> str:
    if side.min is None or side.max is None:
        return "none finite"
    return f"{_short(side.min)}..{_short(side.max)}"


def _value_pair(actual: float | str, expected: float | str) -> str:
    """Return both values, with as many digits as distinguish them."""
    for digits in (5, 8, 11, 17):
        actual_text, expected_text = _short(actual, digits), _short(expected, digits)
        if actual_text != expected_text:
            break
    return f"is {actual_text}, expected {expected_text}"


def _short(value: float | str, digits: int = 5) -> str:
    return value if isinstance(value, str) else f"{value:.{digits}g}"


def ranks_text(ranks: list[int]) -> str:
    """Return [0, 1, 2, 5] as "ranks 0-2, 5"."""
    numbers = sorted(set(ranks))
    return f"rank{'s' if len(numbers) > 1 else ''} {numbers_text(numbers, max_runs=len(numbers))}"


def experts_text(shares: dict[str, tuple[int, int]], max_experts: int = 6) -> str:
    """Return the fraction of wrong rows by expert; empty unless experts clearly differ."""
    ranked = sorted(shares.items(), key=lambda item: (-item[1][0] / item[1][1], -item[1][1]))
    fractions = [num_wrong / rows for _, (num_wrong, rows) in ranked]
    if not fractions or fractions[0] < 0.9 or fractions[-1] > 0.6:
        return ""
    shown = ", ".join(
        f"{e}: {num_wrong} of {rows}" for e, (num_wrong, rows) in ranked[:max_experts]
    )
    return f"wrong rows by expert: {shown}{', ...' if len(ranked) > max_experts else ''}"


def percent(share: float) -> str:
    """Return a fraction as a percentage with two digits."""
    if share < 0.0005:
        return "less than 0.1 %"
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def numbers_text(numbers: list[int], max_runs: int = 6) -> str:
    """Return [0, 1, 2, 7] as "0-2, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:max_runs]]
    return ", ".join(parts + ["..."] * (len(runs) > max_runs))
