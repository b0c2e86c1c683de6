"""With m <= 4, run extra calls and judge their rows jointly.

At m = 1 the row tolerance must allow every code near a rounding tie to flip. Over many rows most
codes do not flip, and the expected squared distance (`variance`) counts each flip with its
probability. So the joint tolerance only has to cover the scatter of the flips, which grows with
the root of their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks import stages
from harness.checks.check import Check, Observation
from harness.checks.output import tolerance_factors
from harness.record.result import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.fixtures.layer_call import Call

SCATTER = 6.0  # standard deviations of the flips' sum


def applies(observation: Observation) -> bool:
    """Apply only if no single call failed; findings on stages do not count as output failures.

    An output of another shape is an error, and has no distance.
    """
    return all(
        finding.verdict not in (Verdict.FAILED, Verdict.ERROR) or finding.check in stages.NAMES
        for finding in observation.findings
    )


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Judge all calls jointly; the finding is reported for the last one."""
    text, last = message(observation.calls), observation.calls[-1].number
    return () if text is None else (Finding(check=CHECK.name, call=last, text=text),)


def tolerance_used(calls: Sequence[Call]) -> float:
    """Return the fraction of the joint tolerance that all calls use; NaN and Inf pass through.

    Flips within one call may be correlated (through a shared scale), flips of two calls are not.
    """
    if not sum(len(call.tokens.x) for call in calls):
        return 0.0
    distance = variance = scatter = 0.0
    for call in calls:
        answer = call.answer
        error = (call.output.out.to(answer.out.dtype) - answer.out).square().sum()
        call_variance, flips = float(answer.variance.sum()), float(answer.flips.sum())
        distance += float(error)
        variance += call_variance
        scatter += call_variance * flips
    rows = torch.cat([call.answer.variance for call in calls])
    _, factor = tolerance_factors(rows, calls[0].answer.out.shape[1])
    tolerance = factor**2 * variance + SCATTER * scatter**0.5
    return float((distance / max(tolerance, 1e-38)) ** 0.5)


def message(calls: Sequence[Call]) -> str | None:
    """Return a message if all calls together exceed the joint tolerance; else None."""
    used = tolerance_used(calls)
    if used <= 1:
        return None
    tokens = sum(len(call.tokens.x) for call in calls)
    return f"the total error of {tokens} tokens in {len(calls)} calls is {used:.3g}x its limit"


CHECK = Check(name="pooled_calls", run=findings, applies=applies)
