"""At few tokens a call, more calls: what no single one can tell apart, all of them together can.

At M = 1 a row's bound must leave room for every code near a tie to flip. Over many rows most
flips do not happen, and how many do is known: the expected squared distance (`variance`) holds
them with their probability. So the rows of all calls together have a bound that leaves room for
the scatter of the flips only, which grows with the root of their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks import stages
from harness.checks.check import Check, Observation
from harness.checks.output import margins
from harness.record.result import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.fixtures.layer_call import Call

SCATTER = 6.0  # standard deviations of the flips' sum


def applies(observation: Observation) -> bool:
    """Ask only where no call failed by itself; a stage's finding says nothing of the output."""
    return all(
        finding.verdict is not Verdict.FAILED or finding.check in stages.NAMES
        for finding in observation.findings
    )


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Judge all calls as one; a finding belongs to the last of them."""
    text, last = complaint(observation.calls), observation.calls[-1].number
    return () if text is None else (Finding(check=CHECK.name, call=last, text=text),)


def share(calls: Sequence[Call]) -> float:
    """The distance of all rows of all calls over its bound; 1 = at it, NaN and Inf stay.

    The flips of one call may hang together (they may share a scale), those of two do not.
    """
    if not sum(len(call.tokens.x) for call in calls):
        return 0.0
    distance = variance = scatter = 0.0
    for call in calls:
        answer = call.answer
        off = (call.output.out.to(answer.out.dtype) - answer.out).square().sum()
        expected, flips = float(answer.variance.sum()), float(answer.flips.sum())
        distance += float(off)
        variance += expected
        scatter += expected * flips
    rows = torch.cat([call.answer.variance for call in calls])
    _, margin = margins(rows, calls[0].answer.out.shape[1])
    limit = margin**2 * variance + SCATTER * scatter**0.5
    return float((distance / max(limit, 1e-38)) ** 0.5)


def complaint(calls: Sequence[Call]) -> str | None:
    """What is wrong with all calls of a case together."""
    used = share(calls)
    if used <= 1:
        return None
    tokens = sum(len(call.tokens.x) for call in calls)
    return f"{tokens} tokens of {len(calls)} calls together are {used:.3g}x beyond their bound"


CHECK = Check(name="pooled_calls", run=findings, applies=applies)
