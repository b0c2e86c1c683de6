"""Count what runs showed of each subject: what is under test from a package, or by its path.

A subject is an experts backend, a whole layer, a router or another member whose row needs a package
of its own; a member that is named by its import path is one, too. No torch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from harness.matrix.case import MoETestConfig
from harness.matrix.case_packages import members_of
from harness.record.result import Verdict
from harness.record.summary import BAD
from moe import families
from moe.packages import Package

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.record.result import CaseResult
    from harness.report.tables import View

HEAD = (
    "subject",
    "version",
    "machine",
    "cases",
    "passed, declared",
    "passed, undeclared",
    "deviations",
    "median of seconds",
)
# A known failure deviates, too: it is only expected. A vacuous case says nothing of a subject.
DEVIATIONS = (*(verdict for verdict in BAD if verdict is not Verdict.VACUOUS), Verdict.KNOWN)


@dataclass(kw_only=True)
class SubjectCounts:
    """Hold what the cases of one subject showed on one machine.

    declared, undeclared: passed cases, by whether numerics were stated, or some were assumed.
    seconds: of each case that ran.
    """

    cases: int = 0
    declared: int = 0
    undeclared: int = 0
    deviations: Counter[Verdict] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def add(self, result: CaseResult) -> None:
        """Count one result."""
        self.cases += 1
        self.seconds.append(result.seconds)
        if result.verdict is Verdict.PASSED:
            self.declared += result.assumed is None
            self.undeclared += result.assumed is not None
        elif result.verdict in DEVIATIONS:
            self.deviations[result.verdict] += 1

    def cells(self) -> tuple[str, ...]:
        """Return the counts as texts, in the order of HEAD."""
        bad = ", ".join(f"{count} {verdict}" for verdict, count in self.deviations.items())
        counts = (str(number) for number in (self.cases, self.declared, self.undeclared))
        return *counts, bad or "0", f"{median(self.seconds):.1f}"


def table(runs: Iterable[View]) -> list[tuple[str, ...]]:
    """Return HEAD and a row for each subject, version and machine, in order of their names.

    Cases that did not run are left out. A case of two subjects, such as a package's router before
    its experts, is counted for each of them.
    """
    counts: dict[tuple[str, str, str], SubjectCounts] = defaultdict(SubjectCounts)
    for run in runs:
        versions = versions_in(run)
        for result in ran(run):
            for name, packages in subjects_of(result.case_id):
                texts = (f"{package} {versions.get(package, '?')}" for package in packages)
                counts[name, ", ".join(texts) or "-", run.info.platform.name].add(result)
    return [HEAD, *((*key, *counts[key].cells()) for key in sorted(counts))]


def ran(run: View) -> Iterator[CaseResult]:
    """Yield the results of a run's cases that were judged."""
    verdicts = (Verdict.PASSED, Verdict.VACUOUS, *DEVIATIONS)
    return (result for result in run.results if result.verdict in verdicts)


def versions_in(run: View) -> dict[str, str]:
    """Return package -> version in a run. Results of cases that raised have none of their own."""
    of_results = (item for result in run.results for item in result.versions.items())
    return {**run.info.versions, **dict(of_results)}


def subjects_of(case_id: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (name, its packages) of each subject of a case; of one named by its path, none."""
    for family, name in members_of(MoETestConfig.from_id(case_id)):
        if ":" in name:
            yield name, ()
            continue
        needed = families.table(family).row(name).needs.packages
        own = tuple(package.distribution for package in needed if isinstance(package, Package))
        if own:
            yield name, own


def deviating(runs: Iterable[View]) -> list[str]:
    """Return a line for each case of a subject that deviates: its verdict, run and id."""
    return [
        f"{result.verdict} in {run.name}: {result.case_id}"
        for run in runs
        for result in ran(run)
        if result.verdict in DEVIATIONS and any(subjects_of(result.case_id))
    ]
