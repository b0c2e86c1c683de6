"""What a run came to: one count a verdict, the closing line, the exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import ExitCode
from harness.record.result import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.record.result import CaseResult

# Verdicts after which a run cannot be called good. A flaky case did fail once.
BAD = (
    Verdict.FAILED,
    Verdict.ERROR,
    Verdict.CRASHED,
    Verdict.HUNG,
    Verdict.VACUOUS,
    Verdict.FLAKY,
)
# Verdicts that say nothing of the code under test: a resumed run tries such cases again.
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


def repeat_command(case_id: str) -> str:
    """The line that runs one case again; an id needs no quotes."""
    return f"python -m harness run --case {case_id}"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts over every point, those refused among them: they add up to `cases`."""

    counts: Mapping[Verdict, int]
    seconds: float  # wall time of the run
    cases: int

    def line(self) -> str:
        """The closing line. A case lost to the machine's faults counts as not run here."""
        shown = {v: self.counts.get(v, 0) for v in _LINE}
        shown[Verdict.NOT_RUN] += self.counts.get(Verdict.INFRA, 0)
        pairs = " ".join(f"{verdict}={count}" for verdict, count in shown.items())
        return f"cases={self.cases} {pairs} seconds={self.seconds:.1f}"

    def to_json(self) -> dict[str, Any]:
        """As `line`, but with `infra` apart from `not_run`."""
        counts = {str(verdict): self.counts.get(verdict, 0) for verdict in Verdict}
        return {"cases": self.cases, **counts, "seconds": round(self.seconds, 3)}

    def exit_code(self) -> ExitCode:
        """The worst first: a failure, the machine's fault, cases left, nothing tested."""
        if any(self.counts.get(verdict, 0) for verdict in BAD):
            return ExitCode.FAILED
        if self.counts.get(Verdict.INFRA, 0):
            return ExitCode.INFRASTRUCTURE
        if self.counts.get(Verdict.NOT_RUN, 0):
            return ExitCode.INCOMPLETE
        return ExitCode.PASSED if self.counts.get(Verdict.PASSED, 0) else ExitCode.NOTHING_SELECTED


def summarize(
    cases: Iterable[str], refused: int, results: Mapping[str, CaseResult], seconds: float
) -> Summary:
    """Count verdicts: `cases` are the ids to run, `results` the last word on each, if any."""
    verdicts = [results[c].verdict if c in results else Verdict.NOT_RUN for c in cases]
    counts = Counter(verdicts)
    counts[Verdict.SKIPPED] += refused
    return Summary(counts=dict(counts), seconds=seconds, cases=len(verdicts) + refused)
