"""Whether each call's output is right, by the bound that the case itself gives (see `output`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks import routing
from harness.checks.check import Check, Observation, where
from harness.checks.output import Judgement, judge
from harness.record.result import Finding, Topic, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.fixtures.layer_call import Call


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Judge each call's output. The metrics come as a finding without a text."""
    judged = [call for call in observation.calls if _has_truth(observation, call)]
    return tuple(
        finding
        for call in judged
        for finding in findings_of(call, judge(call.output.out, call.answer))
    )


def _has_truth(observation: Observation, call: Call) -> bool:
    """Router weights that are NaN, a finding by themselves, leave nothing to compare with."""
    wrong = any(finding.check == routing.CHECK.name for finding in observation.of(call))
    return not wrong or bool(call.answer.out.isfinite().all())


def findings_of(call: Call, judgement: Judgement) -> Iterator[Finding]:
    """Yield what a judgement of one call says, as findings."""
    yield Finding(
        check=CHECK.name, call=call.number, verdict=Verdict.PASSED, metrics=judgement.metrics
    )
    topics = [Topic.ROWS] * (len(judgement.messages) - 1) + [Topic.VALUES]
    for topic, text in zip(topics, judgement.messages, strict=False):
        yield Finding(
            check=CHECK.name,
            call=call.number,
            verdict=judgement.verdict,
            text=where(call) + text,
            topic=topic if judgement.verdict is Verdict.FAILED else None,
        )


CHECK = Check(name="output", run=findings)
