"""Format the likely causes of a failed case; what explains the most wrong rows comes first.

Torch-free.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.record.diagnosis import IN_THE_WRONG
from harness.record.formatting import percent
from harness.report.attribution import Sources, source_suffix, sources_by_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.record.diagnosis import CallDiagnosis

MOST_CAUSES = 3
MOST_CONTRADICTED = 2
LITTLE = 0.25  # part of the error; a mistake that leaves less is named, unless a row does not fit
NO_CAUSE = "no known cause"
# What gives the wrong rows, but others in the right ones, may be something that is alike in them;
# what leaves more than LITTLE makes an output tolerable, and explains it in part.
LIKELY, CONSISTENT = "likely cause", "consistent with"


def cause_lines(
    calls: list[tuple[int, CallDiagnosis]], failed_calls: list[tuple[int, int]]
) -> Iterator[str]:
    """Yield the causes that explain the most calls, and the calls without a known cause.

    Calls without a cause come first if they hold more wrong rows than the best cause explains.
    """
    named, explained_rows = _named_causes(calls, failed_calls)
    without = [(rank, call) for rank, call in calls if not (call.causes or call.fault)]
    unnamed = list(_no_cause(without, failed_calls))
    unexplained_rows = sum(call.wrong_rows for _, call in without)
    unnamed_first = bool(named) and unexplained_rows > explained_rows
    yield from (*unnamed, *named) if unnamed_first else (*named, *unnamed)
    yield from _contradicted(calls)
    untried = max((call.untried for _, call in calls), default=0)
    if untried:
        yield f"time ran out before {untried} of the known mistakes were tried"
    for text, sources in sources_by_text(calls, lambda call: call.faults).items():
        yield f"not examined{source_suffix(sources, failed_calls)}: {text}"


def _named_causes(
    calls: list[tuple[int, CallDiagnosis]], failed_calls: list[tuple[int, int]]
) -> tuple[list[str], int]:
    """Return a line for each of the best causes, and the wrong rows that the best one explains."""
    sources: Sources = {}
    residuals: dict[str, float] = {}
    rows: dict[str, int] = {}
    partial = set()  # what explains some rows or columns only comes after what explains all
    unsure = set()
    for rank, call in calls:
        for cause in call.causes:
            text = ", ".join(filter(None, (cause.cause, cause.where)))
            sources.setdefault(text, []).append((rank, call.call))
            residuals[text] = max(residuals.get(text, 0.0), float(cause.residual))
            rows[text] = rows.get(text, 0) + call.wrong_rows
            if cause.where:
                partial.add(text)
            if IN_THE_WRONG in cause.where or float(cause.residual) > LITTLE:
                unsure.add(text)

    def rank_of(text: str) -> tuple[bool, int, bool, float]:
        return text in unsure, -len(sources[text]), text in partial, residuals[text]

    ranked = sorted(sources, key=rank_of)
    lines = []
    for i, text in enumerate(ranked[:MOST_CAUSES]):
        first = CONSISTENT if text in unsure else LIKELY
        label = f"{first if i == 0 else 'or'}{source_suffix(sources[text], failed_calls)}"
        lines.append(f"{label}: {text} (leaves {percent(residuals[text])} of the error)")
    return lines, rows[ranked[0]] if ranked else 0


def _no_cause(
    without: list[tuple[int, CallDiagnosis]], failed_calls: list[tuple[int, int]]
) -> Iterator[str]:
    tried = max((call.tried or 0 for _, call in without), default=0)
    if tried:
        suffix = source_suffix([(rank, call.call) for rank, call in without], failed_calls)
        residuals = [float(call.closest) for _, call in without if call.closest is not None]
        closest = _closest([residual for residual in residuals if math.isfinite(residual)])
        yield f"{NO_CAUSE}{suffix}: none of {tried} known mistakes gives this output{closest}"


def _contradicted(calls: list[tuple[int, CallDiagnosis]]) -> Iterator[str]:
    """Yield one line about what explains some calls or ranks only, so may be by chance."""
    texts = sources_by_text(calls, lambda call: [c.cause for c in call.contradicted])
    shown = list(texts)[:MOST_CONTRADICTED]
    if shown:
        more = "" if len(texts) == len(shown) else f"; and {len(texts) - len(shown)} more"
        yield f"not sure, since it fits some calls or ranks only: {'; '.join(shown)}{more}"


def _closest(residuals: list[float]) -> str:
    """Return what the closest mistake leaves; one that leaves little does not fit every row."""
    if not residuals:
        return ""
    if min(residuals) <= LITTLE:
        return "; the closest does not fit every wrong row"
    return f"; the closest leaves {percent(min(residuals))} of the error"
