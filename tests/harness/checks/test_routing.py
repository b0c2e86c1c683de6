"""The router's choice is judged in each call, by the case's own router."""

from __future__ import annotations

import dataclasses

import pytest

from harness.checks import routing
from tests.harness.checks.observed import observation, with_output

pytestmark = pytest.mark.usefixtures("one_thread")


def with_routing(seen, number, **changes):
    selection = dataclasses.replace(seen.calls[number].output.routing, **changes)
    return with_output(seen, number, routing=selection)


@pytest.mark.parametrize("fields", [{}, {"router": "sigmoid"}, {"renormalize": False}])
def test_a_right_choice_is_no_finding(fields):
    assert routing.findings(observation(**fields)) == ()


def test_a_better_expert_that_is_left_out_is_named():
    seen = observation()
    ids = seen.calls[0].output.routing.topk_ids.clone()
    ids[2, 0] = next(e for e in range(4) if e not in ids[2])
    (finding,) = routing.findings(with_routing(seen, 0, topk_ids=ids))
    assert finding.text.startswith("routing: 1 of 5 tokens leave out a better expert")


def test_wrong_weights_of_the_second_call_are_named_with_it():
    seen = observation()
    weights = seen.calls[1].output.routing.topk_weights * 2
    (finding,) = routing.findings(with_routing(seen, 1, topk_weights=weights))
    assert finding.call == 1
    assert finding.text.startswith("second call with 3 tokens: routing: ")


@pytest.mark.parametrize("change", [{"router": "sigmoid"}, {"renormalize": False}])
def test_weights_of_another_router_are_wrong(change):
    seen = observation()
    point = seen.subject.case.replace(**change)
    subject = dataclasses.replace(seen.subject, case=point)
    assert routing.findings(dataclasses.replace(seen, subject=subject))
