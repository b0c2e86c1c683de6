"""Each call's output is judged by itself, where there is a truth for it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.checks import output_rows, routing
from harness.record.result import Finding, Topic, Verdict
from tests.harness.checks.observed import observation, with_call, with_output

pytestmark = pytest.mark.usefixtures("one_thread")


def with_zeros(number: int):
    seen = observation()
    return with_output(seen, number, out=torch.zeros_like(seen.calls[number].output.out))


def test_right_outputs_leave_their_metrics_as_evidence():
    findings = output_rows.findings(observation())
    assert [(f.call, f.verdict, f.text) for f in findings] == [
        (0, Verdict.PASSED, ""),
        (1, Verdict.PASSED, ""),
    ]
    assert all(0 < finding.metrics["bound_used"] < 1 for finding in findings)


def test_a_wrong_call_is_named_and_its_values_come_last():
    evidence, *failed = [f for f in output_rows.findings(with_zeros(1)) if f.call == 1]
    assert (evidence.verdict, evidence.metrics["bad_rows"]) == (Verdict.PASSED, 3)
    assert {finding.verdict for finding in failed} == {Verdict.FAILED}
    assert failed[0].text.startswith("second call with 3 tokens: 3 of 3 rows wrong")
    assert [finding.topic for finding in failed] == [Topic.ROWS, Topic.VALUES]


def test_what_proves_nothing_has_no_topic_that_a_diagnosis_would_explain():
    seen = observation()
    answer = seen.calls[0].answer
    blind = dataclasses.replace(answer, variance=answer.out.square().sum(dim=1))
    _, finding, *_ = output_rows.findings(with_call(seen, 0, answer=blind))
    assert (finding.verdict, finding.topic) == (Verdict.VACUOUS, None)


def test_without_a_truth_because_of_wrong_router_weights_nothing_is_judged():
    seen = with_zeros(0)
    answer = seen.calls[0].answer
    lost = dataclasses.replace(answer, out=answer.out * torch.nan)
    seen = with_call(seen, 0, answer=lost)
    misrouted = dataclasses.replace(seen, findings=(Finding(check=routing.CHECK.name),))
    assert {finding.call for finding in output_rows.findings(misrouted)} == {1}
    with pytest.raises(ValueError, match="the reference holds NaN"):
        output_rows.findings(seen)
