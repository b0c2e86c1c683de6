"""What every router's output must be is checked without any reference."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from harness.checks import router_output
from harness.fixtures import routing_truth
from moe.reference.formats import on_grid
from moe.router_numerics import RouterNumerics
from moe.routers import ROUTERS
from tests.harness.checks.observed import observation

pytestmark = pytest.mark.usefixtures("one_thread")


def with_routed(seen, **changes):
    first = seen.calls[0]
    routing = dataclasses.replace(first.routed.routing, **changes)
    call = dataclasses.replace(first, routed=dataclasses.replace(first.routed, routing=routing))
    return dataclasses.replace(seen, calls=[call, *seen.calls[1:]])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"router": "sigmoid", "renormalize": False},
        {"router_scale": 2.5},
        {"router": "topk_softmax", "renormalize": False},
        {"logits": "nan"},
        {"padding": "all"},
    ],
)
def test_a_right_output_is_no_finding(fields):
    assert router_output.findings(observation(**fields)) == ()


def ids(seen):
    return seen.calls[0].routed.routing.topk_ids.clone()


def weights(seen):
    return seen.calls[0].routed.routing.topk_weights.clone()


def changed(tensor, value):
    tensor[2] = torch.tensor(value, dtype=tensor.dtype)
    return tensor


BROKEN = [
    ({}, lambda s: {"topk_ids": ids(s).long()}, "ids are torch.int64; they must be torch.int32"),
    ({}, lambda s: {"topk_weights": weights(s).double()}, "weights are torch.float64"),
    ({}, lambda s: {"topk_weights": weights(s)[:, :1]}, "have shapes [5, 2] and [5, 1]"),
    ({}, lambda s: {"topk_ids": changed(ids(s), [0, 4])}, "1 of 5 tokens have ids outside of 0..3"),
    ({}, lambda s: {"topk_ids": changed(ids(s), [-1, 0])}, "outside of 0..3, first token 2"),
    ({}, lambda s: {"topk_ids": changed(ids(s), [1, 1])}, "choose an expert twice, first token 2"),
    (
        {"renormalize": False},
        lambda s: {"topk_weights": changed(weights(s), [-0.1, 0.2])},
        "a weight that is negative, NaN or Inf, first token 2",
    ),
    ({}, lambda s: {"topk_weights": weights(s) / 2}, "5 of 5 tokens have weights that do not sum"),
    (
        {"router_scale": 2.5},
        lambda s: {"topk_weights": weights(s) * 2.5},
        "weights that do not sum to 2.5",
    ),
    (
        {"renormalize": False},
        lambda s: {"topk_weights": weights(s) * 3},
        "weights that sum to more than 1",
    ),
]


@pytest.mark.parametrize(("fields", "change", "text"), BROKEN)
def test_a_rule_that_is_broken_is_named_with_the_first_token(fields, change, text):
    seen = observation(**fields)
    texts = [finding.text for finding in router_output.findings(with_routed(seen, **change(seen)))]
    assert any(text in one for one in texts), texts
    assert all(one.startswith("router output: ") for one in texts)


@pytest.fixture
def rounded_row(monkeypatch):
    """A function that makes the row of the softmax state other roundings."""

    def state(rounding):
        row = dataclasses.replace(ROUTERS.row("softmax"), rounding=rounding)
        for module in (router_output, routing_truth):
            monkeypatch.setattr(module, "ROUTERS", SimpleNamespace(row=lambda _: row))

    return state


def test_a_sum_may_be_off_by_the_roundings_that_the_row_states(rounded_row):
    seen = observation()
    narrow = on_grid(weights(seen), "bf16")
    assert bool(((narrow.double().sum(1) - 1).abs() > router_output.NOISE).any())
    made = with_routed(seen, topk_weights=narrow)
    assert router_output.findings(made)
    rounded_row(RouterNumerics(weights="logits", scaled="same"))
    assert router_output.findings(made) == ()
    assert router_output.findings(with_routed(seen, topk_weights=narrow * 1.02))


def test_a_silent_row_s_sum_may_be_off_only_if_its_weights_are_rounded(rounded_row):
    rounded_row(None)
    seen = observation()
    narrow = on_grid(weights(seen), "bf16")
    assert router_output.findings(with_routed(seen, topk_weights=narrow)) == ()
    assert router_output.findings(with_routed(seen, topk_weights=weights(seen) * 1.003))


def test_a_layer_that_does_not_tell_its_routing_is_not_asked():
    seen = observation()
    silent = [dataclasses.replace(call, routed=None) for call in seen.calls]
    assert router_output.findings(dataclasses.replace(seen, calls=silent)) == ()
