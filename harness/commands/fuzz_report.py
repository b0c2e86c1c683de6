"""Format the output of `fuzz` about its cases. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.record.result import Verdict
from harness.record.summary import BAD
from harness.report import progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from harness.record.result import CaseResult

ALARMS = tuple(verdict for verdict in BAD if verdict is not Verdict.VACUOUS)


def case_lines(result: CaseResult, folder: Path, *, verbose: bool) -> list[str]:
    """Return the lines for a case that has ended; none for a passed one unless verbose."""
    if verbose or result.verdict not in (Verdict.PASSED, Verdict.VACUOUS):
        return progress.case_lines(result, folder)
    if result.verdict is Verdict.VACUOUS:
        return [f"vacuous: {result.case_id}: {'; '.join(result.messages)}"]
    return []


def smallest_lines(result: CaseResult, runs: int, folder: Path) -> list[str]:
    """Return the lines for the case that a shrink ended with."""
    head = f"smallest case after {runs} more runs; it fails alone, in a fresh gang:"
    return [head, *progress.case_lines(result, folder)]


def dependent_line(alone: CaseResult, earlier: Sequence[str]) -> str:
    """Return the line for a failed case that has another verdict when it runs alone.

    earlier: the cases that ran before it in its gang.
    """
    verdict = "passes" if alone.verdict is Verdict.PASSED else f"ends as {alone.verdict}"
    head = f"{alone.case_id} {verdict} alone"
    if not earlier:
        return f"{head}: it is not repeatable"
    return f"{head}: it depends on what ran before it in its gang: {' '.join(earlier)}"


def totals_line(results: Iterable[CaseResult]) -> str:
    """Return the counts after a batch."""
    verdicts = [result.verdict for result in results]
    bad = sum(verdict in ALARMS for verdict in verdicts)
    vacuous = verdicts.count(Verdict.VACUOUS)
    suffix = f", {vacuous} vacuous" if vacuous else ""
    return f"{len(verdicts)} distinct cases, {bad} of them bad{suffix}"
