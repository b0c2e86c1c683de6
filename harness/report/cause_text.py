"""The likely causes of a case in lines; what holds the most wrong rows comes first. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.formatting import percent
from harness.report.attribution import Said, said, who_says

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.record.diagnosis import CallDiagnosis

MOST_CAUSES = 3
NO_CAUSE = "no known cause"


def cause_lines(
    calls: list[tuple[int, CallDiagnosis]], everyone: list[tuple[int, int]]
) -> Iterator[str]:
    """The causes that explain the most calls, best first, and the calls without one: these go
    first where they hold more wrong rows than the best cause explains."""
    who: Said = {}
    left: dict[str, float] = {}
    rows: dict[str, int] = {}
    for rank, call in calls:
        for cause in call.causes:
            text = ", ".join(filter(None, (cause.cause, cause.where)))
            who.setdefault(text, []).append((rank, call.call))
            left[text] = max(left.get(text, 0.0), float(cause.residual))
            rows[text] = rows.get(text, 0) + call.wrong_rows
    ranked = sorted(who, key=lambda text: (-len(who[text]), left[text]))
    named = []
    for i, text in enumerate(ranked[:MOST_CAUSES]):
        word = "likely cause" if i == 0 else "or"
        rest = f"(leaves {percent(left[text])} of the error)"
        named.append(f"{word}{who_says(who[text], everyone)}: {text} {rest}")
    without = [(rank, call) for rank, call in calls if not (call.causes or call.fault)]
    unnamed = list(_no_cause(without, everyone))
    unexplained = sum(call.wrong_rows for _, call in without)
    first = bool(ranked) and unexplained > rows[ranked[0]]
    yield from (*unnamed, *named) if first else (*named, *unnamed)
    untried = max((call.untried for _, call in calls), default=0)
    if untried:
        yield f"time ran out before {untried} of the known mistakes were tried"
    for text, those in said(calls, lambda call: call.faults).items():
        yield f"not looked at{who_says(those, everyone)}: {text}"


def _no_cause(
    without: list[tuple[int, CallDiagnosis]], everyone: list[tuple[int, int]]
) -> Iterator[str]:
    tried = max((call.tried or 0 for _, call in without), default=0)
    if tried:
        where = who_says([(rank, call.call) for rank, call in without], everyone)
        nearest = [float(c.closest) for _, c in without if c.closest is not None]
        closest = f"; the closest leaves {percent(min(nearest))} of the error" if nearest else ""
        yield f"{NO_CAUSE}{where}: none of {tried} known mistakes gives this output{closest}"
