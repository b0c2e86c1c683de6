"""What a check sees of the calls and of the findings before its own."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from harness.checks.check import Observation, call_prefix
from harness.record.result import Finding, Verdict


def a_call(number: int) -> SimpleNamespace:
    return SimpleNamespace(number=number, tokens=SimpleNamespace(x=torch.zeros(7, 4)))


def seen(*findings: Finding) -> Observation:
    return Observation(subject=None, context=None, calls=[a_call(0), a_call(1)], findings=findings)


def test_findings_of_a_call_are_its_own():
    first, second = Finding(check="a"), Finding(check="b", call=1)
    both_calls = seen(first, second)
    assert both_calls.of(a_call(0)) == (first,)
    assert both_calls.of(a_call(1)) == (second,)


def test_the_verdict_of_a_call_is_its_worst_and_evidence_is_no_failure():
    evidence = Finding(check="a", verdict=Verdict.PASSED)
    failed, error = Finding(check="b"), Finding(check="c", verdict=Verdict.ERROR)
    assert seen(evidence).verdict(a_call(0)) is Verdict.PASSED
    assert not seen(evidence, error).has_failed(a_call(0))
    assert seen(evidence, failed, error).verdict(a_call(0)) is Verdict.ERROR
    assert seen(evidence, failed, error).has_failed(a_call(0))
    elsewhere = dataclasses.replace(failed, call=1)
    assert not seen(elsewhere).has_failed(a_call(0))


def test_failed_calls_are_those_with_wrong_numbers_in_order():
    failed, error = Finding(check="a", call=1), Finding(check="b", verdict=Verdict.ERROR)
    assert [call.number for call in seen(error, failed).failed_calls] == [1]
    both_calls = seen(failed, Finding(check="c"), failed).failed_calls
    assert [call.number for call in both_calls] == [0, 1]


@pytest.mark.parametrize(
    ("number", "prefix"),
    [(0, ""), (1, "second call with 7 tokens: "), (4, "call 5 with 7 tokens: ")],
)
def test_messages_name_the_call_unless_it_is_the_first(number, prefix):
    assert call_prefix(a_call(number)) == prefix
