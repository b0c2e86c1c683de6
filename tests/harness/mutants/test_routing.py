"""Wrong router weights give what the real stack gives with them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.mutants import NotApplicable, named
from moe.routers import ROUTERS
from tests.harness.mutants.real_layer import assert_foretold
from tests.harness.mutants.samples import (
    assert_no_mistake,
    case,
    scene,
)

IN_ROUTING = [
    ("weights_ignored", lambda i, w: (i, torch.ones_like(w))),
    ("weights_twice", lambda i, w: (i, w * w)),
    ("weights_uniform", lambda i, w: (i, torch.full_like(w, 0.5))),
    ("weights_reversed", lambda i, w: (i, w.flip(1))),
]


@pytest.mark.parametrize(("name", "change"), IN_ROUTING)
def test_a_mistake_in_the_routing_is_foretold(name, change):
    assert_foretold(name, case(), change_routing=change)


ON_INPUT = case(top_k=1, router="sigmoid", renormalize=False, weights_input=True)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weights_ignored", lambda i, w: (i, torch.ones_like(w))),
        ("weights_twice", lambda i, w: (i, w * w)),
    ],
)
def test_a_mistake_in_weights_on_the_input_is_foretold(name, change):
    assert_foretold(name, ON_INPUT, change_routing=change)


def test_a_factor_makes_the_only_weight_matter():
    named("weights_ignored").compute(scene(case(top_k=1, router_scale=2.5)))


def test_a_factor_that_is_not_top_k_makes_equal_weights_matter():
    named("weights_ignored").compute(scene(case(router_scale=4.0, exact=True)))


NO_MISTAKE = [
    ("weights_ignored", case(top_k=1), "a renormalised weight is one"),
    ("weights_twice", case(top_k=1), "a renormalised weight is one"),
    ("weights_uniform", case(top_k=1), "a renormalised weight is one"),
    ("weights_sigmoid", case(top_k=1), "a renormalised weight is one"),
    ("weights_on_input", case(top_k=1), "a renormalised weight is one"),
    ("weights_ignored", case(top_k=1, renormalize=False, exact=True), "an exact case's weight"),
    ("weights_ignored", case(router_scale=2.0, exact=True), "an exact case's weights are one"),
    ("weights_twice", case(router_scale=2.0, exact=True), "an exact case's weights are one"),
    (
        "weights_ignored",
        case(router="sigmoid", renormalize=False, exact=True),
        "an exact case's weights are one",
    ),
    ("weights_sigmoid", case(router="sigmoid"), "sigmoid is the layer's scoring function"),
    ("weights_softmax", case(), "softmax is the layer's scoring function"),
    ("weights_reversed", case(top_k=1), "top-k is 1"),
    ("renormalisation_missing", case(renormalize=False), "does not renormalise"),
    ("renormalisation_missing", case(top_k=4), "all experts are chosen"),
    ("renormalisation_extra", case(), "does renormalise"),
    ("renormalisation_extra", case(top_k=4, renormalize=False), "all experts are chosen"),
    ("bias_in_weights", case(), "no bias"),
    ("renormalised_over_all", case(renormalize=False), "does not renormalise"),
    ("router_scale_missing", case(), "factor is one"),
    ("router_scale_twice", case(), "factor is one"),
    ("router_scale_on_shared", case(router_scale=2.5), "no shared experts"),
    ("weights_on_output", case(top_k=1, renormalize=False), "multiply the output"),
    ("weights_on_both", case(top_k=1, renormalize=False), "multiply the output"),
    ("weights_on_input", ON_INPUT, "do multiply the input"),
    ("weights_ignored", case(num_experts=1, top_k=1, renormalize=False), "only expert's weight"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("weights_twice", {"top_k": 1, "renormalize": False}),
        ("weights_ignored", {"top_k": 1, "renormalize": False}),
        ("renormalisation_missing", {}),
        ("renormalisation_extra", {"renormalize": False}),
    ],
)
def test_a_router_that_always_renormalises_makes_some_mistakes_none(monkeypatch, name, fields):
    sample = scene(case(**fields))
    named(name).compute(sample)
    row = dataclasses.replace(ROUTERS.row("softmax"), always_renormalizes=True)
    monkeypatch.setattr(ROUTERS, "_rows", ROUTERS.rows | {"softmax": row})
    with pytest.raises(NotApplicable, match="renormalis"):
        named(name).compute(sample)
