"""What a check is: a name, when it applies, whether it is collective, and how findings are made.

A new check is one module with a `Check` and one line in `harness.checks.TARGETS`, or an entry
point of the group `moe.checks` in another package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.record.result import Finding, Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.fixtures.rank_context import RankContext


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What there is to judge on one rank, and what the checks before have found.

    findings: in the order of the table; those whose verdict is PASSED are evidence only.
    """

    subject: Subject
    context: RankContext
    calls: Sequence[Call]
    findings: tuple[Finding, ...] = ()

    def of(self, call: Call) -> tuple[Finding, ...]:
        """Return what has been found in one call."""
        return tuple(finding for finding in self.findings if finding.call == call.number)

    def verdict(self, call: Call) -> Verdict:
        """Return the worst verdict of one call's findings."""
        return worst(finding.verdict for finding in self.of(call))

    def has_failed(self, call: Call) -> bool:
        """Tell whether a call gave wrong numbers, whatever else went wrong in it."""
        return any(finding.verdict is Verdict.FAILED for finding in self.of(call))


def always(_observation: Observation) -> bool:
    """Apply to every case."""
    return True


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the table.

    run: returns what is wrong; nothing when all is well. collective: all ranks run it together,
    where it `applies` on each of them. phase: under which name its time is counted.
    """

    name: str
    run: Callable[[Observation], tuple[Finding, ...]]
    applies: Callable[[Observation], bool] = always
    collective: bool = False
    phase: str = "judge"


def where(call: Call) -> str:
    """Return the words in front of a message about one call; none for the first."""
    if call.number == 0:
        return ""
    name = "second call" if call.number == 1 else f"call {call.number + 1}"
    return f"{name} with {len(call.tokens.x)} tokens: "
