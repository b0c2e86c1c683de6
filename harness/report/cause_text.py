"""The likely causes of a case in lines; what holds the most wrong rows comes first. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.formatting import percent
from harness.report.attribution import Sources, source_suffix, sources_by_text

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_CAUSES = 3
NO_CAUSE = "no known cause"


def cause_lines(
    calls: list[tuple[int, dict[str, Any]]], failed_calls: list[tuple[int, int]]
) -> Iterator[str]:
    """The causes that explain the most calls, best first, and the calls without one: these go
    first where they hold more wrong rows than the best cause explains."""
    sources: Sources = {}
    residuals: dict[str, float] = {}
    rows: dict[str, int] = {}
    for rank, call in calls:
        for cause in call.get("causes", ()):
            text = ", ".join(filter(None, (cause["cause"], cause["where"])))
            sources.setdefault(text, []).append((rank, call["call"]))
            residuals[text] = max(residuals.get(text, 0.0), float(cause["residual"]))
            rows[text] = rows.get(text, 0) + _wrong_rows(call)
    ranked = sorted(sources, key=lambda text: (-len(sources[text]), residuals[text]))
    named = []
    for i, text in enumerate(ranked[:MOST_CAUSES]):
        word = "likely cause" if i == 0 else "or"
        remainder = f"(leaves {percent(residuals[text])} of the error)"
        named.append(f"{word}{source_suffix(sources[text], failed_calls)}: {text} {remainder}")
    without = [(rank, call) for rank, call in calls if not call.get("causes", True)]
    unnamed = list(_no_cause(without, failed_calls))
    unexplained = sum(_wrong_rows(call) for _, call in without)
    first = bool(ranked) and unexplained > rows[ranked[0]]
    yield from (*unnamed, *named) if first else (*named, *unnamed)
    untried = max((call.get("untried", 0) for _, call in calls), default=0)
    if untried:
        yield f"time ran out before {untried} of the known mistakes were tried"
    faults = sources_by_text(calls, lambda call: call.get("faults") or [])
    for text, fault_sources in faults.items():
        yield f"not looked at{source_suffix(fault_sources, failed_calls)}: {text}"


def _wrong_rows(call: dict[str, Any]) -> int:
    return int(call.get("rows", {}).get("wrong", 0))


def _no_cause(
    without: list[tuple[int, dict[str, Any]]], failed_calls: list[tuple[int, int]]
) -> Iterator[str]:
    tried = max((call.get("tried", 0) for _, call in without), default=0)
    if tried:
        suffix = source_suffix([(rank, call["call"]) for rank, call in without], failed_calls)
        nearest = [float(c["closest"]) for _, c in without if c.get("closest") is not None]
        closest = f"; the closest leaves {percent(min(nearest))} of the error" if nearest else ""
        yield f"{NO_CAUSE}{suffix}: none of {tried} known mistakes gives this output{closest}"
