"""The router's choice is judged in each call, by the case's own router."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from harness.checks import routing
from harness.fixtures import routing_truth
from harness.record.result import Verdict
from moe.router_numerics import RouterNumerics
from moe.routers import ROUTERS
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


FUSED = {"shared_experts": 2, "shared_fused": True, "m": 5}


def fused_with(**orders):
    """The findings if slots of the ids and the weights of both calls were in other orders."""
    seen = observation(**FUSED)
    for number, call in enumerate(seen.calls):
        changes = {
            name: getattr(call.output.routing, name)[:, order] for name, order in orders.items()
        }
        seen = with_routing(seen, number, **changes)
    return [finding.text for finding in routing.findings(seen) if finding.call == 0]


def test_slots_of_fused_shared_experts_that_are_elsewhere_are_told():
    assert fused_with() == []
    text = (
        "routing: the ids of the fused shared experts are in slots {} and their weights in slots "
        "{}; both must be in slots 2-3, after the router's"
    )
    assert text.format("0-1", "2-3") in fused_with(topk_ids=[2, 3, 0, 1])
    assert text.format("2-3", "0-1") in fused_with(topk_weights=[2, 3, 0, 1])
    assert text.format("1-2", "1-2") in fused_with(topk_ids=[0, 2, 3, 1], topk_weights=[0, 2, 3, 1])
    mixed = fused_with(topk_ids=[0, 1, 3, 2])
    assert "is not sent to each fused shared expert" in mixed[0]


def nan_rows(**changes):
    """An observation whose row 1 holds a NaN, with its routing changed there."""
    seen = observation(logits="nan")
    first = seen.calls[0]
    routing_ = first.routed.routing
    for name, value in changes.items():
        changed = getattr(routing_, name).clone()
        changed[1] = torch.tensor(value, dtype=changed.dtype)
        routing_ = dataclasses.replace(routing_, **{name: changed})
    call = dataclasses.replace(first, routed=dataclasses.replace(first.routed, routing=routing_))
    return dataclasses.replace(seen, calls=[call, *seen.calls[1:]])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"topk_ids": [-1, -1], "topk_weights": [0.0, 0.0]},
        {"topk_ids": [3, 1], "topk_weights": [float("nan"), 0.5]},
    ],
)
def test_a_nan_that_shows_or_a_token_that_is_sent_nowhere_is_no_finding(changes):
    assert routing.findings(nan_rows(**changes)) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"topk_weights": [0.5, 0.5]},
        {"topk_ids": [2, 2]},
        {"topk_ids": [0, 4]},
        {"topk_ids": [-1, 0]},
    ],
)
def test_a_nan_that_is_hidden_is_named_with_its_token(changes):
    (finding,) = routing.findings(nan_rows(**changes))
    assert finding.text.startswith("routing: 1 tokens whose logits hold a NaN hide it, first token")


@pytest.mark.parametrize(
    ("weights", "is_right"), [([0.0, 0.0], True), ([0.0, 0.5], False), ([float("nan"), 0.5], False)]
)
def test_a_router_whose_row_says_so_gives_weights_of_zero(monkeypatch, weights, is_right):
    row = dataclasses.replace(ROUTERS.row("softmax"), nan_as_zero=True)
    monkeypatch.setattr(ROUTERS, "_rows", ROUTERS.rows | {"softmax": row})
    seen = observation(logits="nan")
    hides = dataclasses.replace(seen, calls=[with_nan_rows(call, weights) for call in seen.calls])
    texts = [finding.text for finding in routing.findings(hides)]
    if is_right:
        assert texts == []
    else:
        rule = "choose distinct experts with weights of 0, as the router's row states"
        assert rule in texts[0]


def with_nan_rows(call, weights):
    """A call whose tokens with NaN logits have these weights."""
    is_nan = call.routed.tokens.logits.isnan().any(dim=1)
    changed = call.routed.routing.topk_weights.clone()
    changed[is_nan] = torch.tensor(weights)
    routing_ = dataclasses.replace(call.routed.routing, topk_weights=changed)
    return dataclasses.replace(call, routed=dataclasses.replace(call.routed, routing=routing_))


@pytest.mark.parametrize("change", [{"router": "sigmoid"}, {"renormalize": False}])
def test_weights_of_another_router_are_wrong(change):
    seen = observation()
    point = seen.subject.case.replace(**change)
    subject = dataclasses.replace(seen.subject, case=point)
    assert routing.findings(dataclasses.replace(seen, subject=subject))


def judged_by(monkeypatch, rounding):
    """Make the row of the softmax state other roundings."""
    row = dataclasses.replace(ROUTERS.row("softmax"), rounding=rounding)
    table = SimpleNamespace(row=lambda _: row)
    monkeypatch.setattr(routing_truth, "ROUTERS", table)


def with_weights(seen, change):
    """The same, had each call's router weights been `change` of its own."""
    for number, call in enumerate(seen.calls):
        weights = change(call.output.routing.topk_weights)
        seen = with_routing(seen, number, topk_weights=weights)
    return seen


def rounded(weights):
    return weights.bfloat16().float()


def test_weights_are_judged_by_the_roundings_that_the_row_states(monkeypatch):
    seen = observation()
    assert routing.findings(with_weights(seen, rounded))
    judged_by(monkeypatch, RouterNumerics(weights="logits", scaled="same"))
    assert routing.findings(with_weights(seen, rounded)) == ()
    findings = routing.findings(seen)
    assert findings[0].text.endswith('rounded as in RouterNumerics(weights="bf16", scaled="bf16")')


def failed(findings):
    return [finding for finding in findings if finding.verdict is Verdict.FAILED]


def test_of_a_silent_row_one_customary_rounding_must_explain_all_calls(monkeypatch):
    judged_by(monkeypatch, None)
    seen = observation()
    assert routing.findings(seen) == ()
    assert failed(routing.findings(with_weights(seen, rounded))) == []
    of_first = rounded(seen.calls[0].output.routing.topk_weights)
    first, *_ = routing.findings(with_routing(seen, 0, topk_weights=of_first))
    assert first.text.endswith(f"; {routing.UNSTATED}")
    truncated = with_weights(seen, lambda weights: rounded(weights * (1 - 2.0**-8)))
    assert failed(routing.findings(truncated))


def test_what_was_assumed_of_a_silent_row_is_told_unless_it_is_right_without(monkeypatch):
    judged_by(monkeypatch, None)
    for change, text in (
        (rounded, 'RouterNumerics(weights="logits", scaled="same")'),
        (torch.Tensor.clone, None),
        (lambda weights: weights * 2, None),
    ):
        seen = with_weights(observation(), change)
        judged = dataclasses.replace(seen, findings=routing.findings(seen))
        assert routing.assumed(judged) == text
    judged_by(monkeypatch, RouterNumerics(weights="logits", scaled="same"))
    seen = with_weights(observation(), rounded)
    assert routing.findings(seen) == ()
