"""Summarize a run: a count for each verdict, the summary line, the exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import ExitCode
from harness.record.result import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.record.result import CaseResult

# Verdicts that fail a run. A flaky case failed at least once.
BAD = (
    Verdict.FAILED,
    Verdict.ERROR,
    Verdict.CRASHED,
    Verdict.HUNG,
    Verdict.VACUOUS,
    Verdict.FLAKY,
)
# Verdicts that do not depend on the code under test: a resumed run repeats such cases.
OPEN = (Verdict.INFRA, Verdict.NOT_RUN)
_LINE = (
    Verdict.PASSED,
    Verdict.FAILED,
    Verdict.ERROR,
    Verdict.CRASHED,
    Verdict.HUNG,
    Verdict.SKIPPED,
    Verdict.VACUOUS,
    Verdict.FLAKY,
    Verdict.NOT_RUN,
)
REPETITIONS = 50  # enough to see one failure in 20


def repeat_command(case_id: str) -> str:
    """Return the command that repeats one case; an id needs no quotes."""
    trace = " --trace PATH" if "-trace:" in case_id else ""  # of its recorded workload
    return f"python -m harness run --case {case_id}{trace}"


def count_command(case_id: str) -> str:
    """Return the command that counts how often one case fails."""
    return f"{repeat_command(case_id)} --repeat {REPETITIONS}"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts over all cases, including refused ones: they add up to `cases`."""

    counts: Mapping[Verdict, int]
    seconds: float  # wall time of the run
    cases: int
    left_out: int = 0  # cases that a time budget left out, which are not among `cases`
    refused_by_id: int = 0  # refused cases that were asked for by their ids, not with a suite

    def line(self) -> str:
        """Return the summary line: `infra` is in `not_run`; `known`, `left_out` only if not 0."""
        shown = {v: self.counts.get(v, 0) for v in _LINE}
        shown[Verdict.NOT_RUN] += self.counts.get(Verdict.INFRA, 0)
        if self.counts.get(Verdict.KNOWN, 0):
            shown[Verdict.KNOWN] = self.counts[Verdict.KNOWN]
        pairs = " ".join(f"{verdict}={count}" for verdict, count in shown.items())
        left_out = f" left_out={self.left_out}" if self.left_out else ""
        return f"cases={self.cases} {pairs}{left_out} seconds={self.seconds:.1f}"

    def to_json(self) -> dict[str, Any]:
        """Return the counts of every verdict, with `infra` separate from `not_run`."""
        counts = {str(verdict): self.counts.get(verdict, 0) for verdict in Verdict}
        left_out = {"left_out": self.left_out} if self.left_out else {}
        return {"cases": self.cases, **counts, **left_out, "seconds": round(self.seconds, 3)}

    def exit_code(self) -> ExitCode:
        """Return the code of the most severe state: failure, infrastructure, incomplete, empty."""
        if any(self.counts.get(verdict, 0) for verdict in BAD):
            return ExitCode.FAILED
        if self.counts.get(Verdict.INFRA, 0):
            return ExitCode.INFRASTRUCTURE
        if self.counts.get(Verdict.NOT_RUN, 0):
            return ExitCode.INCOMPLETE
        ran = self.counts.get(Verdict.PASSED, 0) + self.counts.get(Verdict.KNOWN, 0)
        return ExitCode.PASSED if ran and not self.refused_by_id else ExitCode.NOTHING_SELECTED


def summarize(
    cases: Iterable[str],
    refused: int,
    results: Mapping[str, CaseResult],
    seconds: float,
    left_out: int = 0,
    *,
    by_id: bool = False,
) -> Summary:
    """Count verdicts.

    cases: ids of the cases to run. refused: number of refused cases. results: the last result of
    each case; a case without one is `not_run`. seconds: wall time of the run. left_out: number of
    cases that were not asked for, for a time budget. by_id: whether cases were asked for by id.
    """
    verdicts = [results[c].verdict if c in results else Verdict.NOT_RUN for c in cases]
    counts = Counter(verdicts)
    counts[Verdict.SKIPPED] += refused
    cases_in_all = len(verdicts) + refused
    return Summary(
        counts=dict(counts),
        seconds=seconds,
        cases=cases_in_all,
        left_out=left_out,
        refused_by_id=refused if by_id else 0,
    )
