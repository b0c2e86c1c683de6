"""Check each call's output against the reference, with the tolerance of `harness.checks.output`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks import routing
from harness.checks.check import Check, Observation, call_prefix
from harness.checks.output import Judgement, judge
from harness.fixtures.layer_call import rows_of
from harness.fixtures.undefined_rows import defined_rows
from harness.record.result import Finding, Topic, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.fixtures.layer_call import Call


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Judge each call's output. Metrics are a finding without text."""
    judged = [call for call in observation.calls if _has_truth(observation, call)]
    return tuple(finding for call in judged for finding in findings_of(call, judge_call(call)))


def judge_call(call: Call, out: Tensor | None = None) -> Judgement:
    """Judge the rows of a call whose output is defined. out: [T, K]; None: the call's own."""
    out = call.output.out if out is None else out
    if call.tokens.is_undefined is None:
        return judge(out, call.answer)
    rows = defined_rows(call.tokens)
    return judge(out[rows], rows_of(call.answer, rows, slice(None)))


def _has_truth(observation: Observation, call: Call) -> bool:
    """Tell whether the reference is usable: not if wrong router weights made it NaN."""
    is_misrouted = any(finding.check == routing.CHECK.name for finding in observation.of(call))
    return not is_misrouted or bool(call.answer.out.isfinite().all())


def findings_of(call: Call, judgement: Judgement) -> Iterator[Finding]:
    """Yield the findings of one call's judgement."""
    yield Finding(
        check=CHECK.name, call=call.number, verdict=Verdict.PASSED, metrics=judgement.metrics
    )
    topics = [Topic.ROWS] * (len(judgement.messages) - 1) + [Topic.VALUES]
    for topic, text in zip(topics, judgement.messages, strict=False):
        yield Finding(
            check=CHECK.name,
            call=call.number,
            verdict=judgement.verdict,
            text=call_prefix(call) + text,
            topic=topic if judgement.verdict is Verdict.FAILED else None,
        )


CHECK = Check(name="output", run=findings)
