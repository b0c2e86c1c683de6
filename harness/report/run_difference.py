"""Compare two runs: what newly fails, is fixed, no longer runs, gives another output, is slower.

The stored rows of cases that passed in both are compared within what rounding explains.

Seconds of cases vary, and machines differ. A case counts as slower only if its ratio lies outside
of what the cases that passed in both runs have in common: their median ratio, and several times
their median deviation from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from harness.record.cross_case import first_difference
from harness.record.result import Verdict
from harness.record.summary import BAD, OPEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.record.result import CaseResult
    from harness.report.tables import View

LEAST_CASES = 8  # that passed in both runs, before any counts as slower
LEAST_SECONDS = 0.2  # by which a case must be slower
LEAST_RATIO = 1.3  # after the common ratio
DEVIATIONS = 4.0  # median deviations, each scaled to a standard deviation of a normal distribution
_NORMAL = 1.4826
TITLES = ("newly_failing", "no_longer_run", "outputs_differ", "fixed", "still_failing", "slower")
SHOWN = 50  # lines of a list


@dataclass(frozen=True, kw_only=True)
class RunDifference:
    """Differences as lines that begin with the case's id, by title, and the common ratio.

    ratio: seconds of the second run over those of the first, None if too few passed in both.
    """

    before: str
    after: str
    newly_failing: tuple[str, ...] = ()
    no_longer_run: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    still_failing: tuple[str, ...] = ()
    outputs_differ: tuple[str, ...] = ()  # of cases that passed in both runs
    slower: tuple[str, ...] = ()
    new: int = 0
    compared: int = 0  # cases that passed in both runs, with stored rows of output
    ratio: float | None = None

    @property
    def is_worse(self) -> bool:
        """Return whether a case newly fails, no longer runs or gives another output.

        Times alone are no fault.
        """
        return bool(self.newly_failing or self.no_longer_run or self.outputs_differ)

    def sections(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield title and lines of each list that is not empty."""
        for title in TITLES:
            lines = getattr(self, title)
            if lines:
                yield title.replace("_", " "), lines


def difference(before: View, after: View) -> RunDifference:
    """Return what changed from one run to another."""
    first = {result.case_id: result for result in before.results}
    second = {result.case_id: result for result in after.results}
    failing = {c: r for c, r in second.items() if r.verdict in BAD}
    was_failing = {c: r for c, r in first.items() if r.verdict in BAD}
    ratio, slower = _slower(first, second)
    outputs = _compared_outputs(first, second)
    return RunDifference(
        before=before.name,
        after=after.name,
        newly_failing=tuple(
            f"{c}  {_was(first, c)} -> {r.verdict}"
            for c, r in failing.items()
            if c not in was_failing
        ),
        fixed=tuple(
            f"{c}  {r.verdict} -> {second[c].verdict}"
            for c, r in was_failing.items()
            if c in second and second[c].verdict in (Verdict.PASSED, Verdict.KNOWN)
        ),
        still_failing=tuple(
            f"{c}  {was_failing[c].verdict} -> {r.verdict}"
            for c, r in failing.items()
            if c in was_failing
        ),
        no_longer_run=tuple(_no_longer_run(first, second, after)),
        outputs_differ=tuple(f"{c}  {text}" for c, text in outputs.items() if text is not None),
        compared=len(outputs),
        slower=slower,
        new=len(second.keys() - first.keys()),
        ratio=ratio,
    )


def _was(results: dict[str, CaseResult], case_id: str) -> str:
    return str(results[case_id].verdict) if case_id in results else "new"


def _no_longer_run(
    first: dict[str, CaseResult], second: dict[str, CaseResult], after: View
) -> Iterator[str]:
    """Yield the cases that the first run decided and the second one did not, with the reason."""
    refused = {point.case: point.code for point in after.refused}
    left_out = frozenset(after.info.left_out)
    for case_id, result in first.items():
        if result.verdict in OPEN:
            continue
        now = second.get(case_id)
        if now is None:
            if case_id in left_out:
                continue  # nobody asked for it
            reason = f"skipped: {refused[case_id]}" if case_id in refused else "not in the run"
            yield f"{case_id}  {result.verdict} -> {reason}"
        elif now.verdict in OPEN:
            yield f"{case_id}  {result.verdict} -> {now.verdict}"


def _compared_outputs(
    first: dict[str, CaseResult], second: dict[str, CaseResult]
) -> dict[str, str | None]:
    """Return the difference of outputs, or None, of each case that passed in both runs.

    Where another seed was judged, inputs differ, and outputs are not compared.
    """
    return {
        c: first_difference(first[c], r)
        for c, r in second.items()
        if c in first
        and first[c].verdict is r.verdict is Verdict.PASSED
        and first[c].seed == r.seed
        and first[c].sketches
        and r.sketches
    }


def _slower(
    first: dict[str, CaseResult], second: dict[str, CaseResult]
) -> tuple[float | None, tuple[str, ...]]:
    """Return the common ratio of seconds, and the cases that are slower than noise explains."""
    pairs = {
        c: (first[c].seconds, r.seconds)
        for c, r in second.items()
        if c in first
        and first[c].verdict is r.verdict is Verdict.PASSED
        and min(first[c].seconds, r.seconds) > 0
    }
    if len(pairs) < LEAST_CASES:
        return None, ()
    logs = {c: math.log(b / a) for c, (a, b) in pairs.items()}
    common = median(logs.values())
    deviation = _NORMAL * median(abs(log - common) for log in logs.values())
    limit = common + max(DEVIATIONS * deviation, math.log(LEAST_RATIO))
    slow = [
        c
        for c, (a, b) in pairs.items()
        if logs[c] > limit and b - math.exp(common) * a > LEAST_SECONDS
    ]
    slow.sort(key=lambda c: -logs[c])
    lines = (f"{c}  {pairs[c][0]:.2f}s -> {pairs[c][1]:.2f}s" for c in slow)
    return math.exp(common), tuple(lines)


def console(changes: RunDifference) -> str:
    """Return the difference for a terminal; its last line counts."""
    parts = [
        f"{title}\n" + "\n".join(f"  {line}" for line in cut(lines))
        for title, lines in changes.sections()
    ]
    return "\n\n".join([*parts, closing_line(changes)])


def markdown(changes: RunDifference) -> str:
    """Return the difference for a pull request or an annotation."""
    parts = [f"#### {changes.before} and {changes.after}", f"`{closing_line(changes)}`"]
    for title, lines in changes.sections():
        body = "\n".join(cut(lines))
        summary = f"<summary>{title}: {len(lines)}</summary>"
        parts.append(f"<details>{summary}\n\n```text\n{body}\n```\n\n</details>")
    return "\n\n".join(parts) + "\n"


def cut(lines: tuple[str, ...]) -> list[str]:
    """Return at most SHOWN lines, and one that counts the others."""
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"... {more} more"] if more > 0 else [])]


def closing_line(changes: RunDifference) -> str:
    """Return the counts in one line."""
    counts = {title: len(getattr(changes, title)) for title in TITLES}
    counts |= {"new": changes.new, "outputs_compared": changes.compared}
    ratio = "unknown" if changes.ratio is None else f"{changes.ratio:.2f}"
    return " ".join(f"{name}={count}" for name, count in counts.items()) + f" seconds_ratio={ratio}"
