"""Define what a check is: its name, when it applies, whether it is collective, how it runs.

A new check is one module with a `Check` and one line in `harness.checks.TARGETS`, or an entry
point of the group `moe.checks` in another package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.record.result import Finding, Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.fixtures.collective_agreement import CollectivesDiffer
    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.fixtures.rank_context import RankContext

FAILED_CALLS = 3  # of a rank that are examined in detail: a case of few tokens has many calls


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Hold what is judged on one rank, and the findings of the checks that ran before.

    findings: in table order; those with the verdict PASSED are evidence only. out_of_step: how the
    collectives of ranks differed, which ended the calls; only checks that are not `of_calls` run.
    """

    subject: Subject
    context: RankContext
    calls: Sequence[Call]
    findings: tuple[Finding, ...] = ()
    out_of_step: CollectivesDiffer | None = None

    def of(self, call: Call) -> tuple[Finding, ...]:
        """Return the findings of one call."""
        return tuple(finding for finding in self.findings if finding.call == call.number)

    def verdict(self, call: Call) -> Verdict:
        """Return the worst verdict of one call's findings."""
        return worst(finding.verdict for finding in self.of(call))

    def has_failed(self, call: Call) -> bool:
        """Tell whether a call gave wrong numbers, even if it has other findings too."""
        return any(finding.verdict is Verdict.FAILED for finding in self.of(call))

    @property
    def hides_routing(self) -> bool:
        """Tell whether the layer returned its routing in no call, so that it is the reference's."""
        return all(call.routed is None for call in self.calls)

    @property
    def failed_calls(self) -> list[Call]:
        """Return the calls that gave wrong numbers; FAILED_CALLS of them are examined in detail."""
        return [call for call in self.calls if self.has_failed(call)]


def always(_observation: Observation) -> bool:
    """Apply to every case."""
    return True


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the table.

    run: returns findings, or none if all is well. of_case: whether the case and the run's options
    have what it checks, which every rank answers alike. applies: whether it can judge what this
    rank has. collective: all ranks run it together, where it `applies` on every rank; unless it
    always applies, they exchange their answers first. by_reference: its findings depend on the
    reference, so that it runs again for each alternative if a row states no numerics. of_calls: it
    looks at calls, of which some are missing if ranks were out of step. phase: the timer that its
    run time is added to.
    """

    name: str
    run: Callable[[Observation], tuple[Finding, ...]]
    of_case: Callable[[Observation], bool] = always
    applies: Callable[[Observation], bool] = always
    collective: bool = False
    by_reference: bool = True
    of_calls: bool = True
    phase: str = "judge"


def call_prefix(call: Call) -> str:
    """Return the prefix of a message about one call; empty for the first call."""
    if call.number == 0:
        return ""
    name = "second call" if call.number == 1 else f"call {call.number + 1}"
    return f"{name} with {len(call.tokens.x)} tokens: "
