"""Each rule is recognised by the experts that it chooses; of a random choice nothing is said."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.router_choice import are_valid, choices, router_choice
from tests.harness.diagnosis.routed import EXPERTS, TOKENS, routed_by

LAYERS = {
    "softmax": {},
    "bias": {"router": "sigmoid", "bias": True},
    "groups": {"router": "sigmoid", "bias": True, "groups": 4, "chosen_groups": 2},
}


def said(routed):
    return [cause.cause.removeprefix("in the router ") for cause in router_choice(routed)]


@pytest.mark.parametrize("layer", LAYERS)
def test_each_rule_is_named_by_the_experts_that_it_gives(layer):
    """Or others that give the same experts wherever these are wrong."""
    routed = routed_by(**LAYERS[layer])
    rules = list(choices(routed))
    assert len(rules) > 10
    for text, ids in rules:
        other = dataclasses.replace(routed, ids=ids)
        wrong = ~are_valid(other)
        if not bool(wrong.any()):
            continue
        given_ids = ids[wrong].sort(dim=1).values
        alike = {
            name
            for name, same in choices(other)
            if torch.equal(same[wrong].sort(dim=1).values, given_ids)
        }
        assert text in alike
        found = [t.split(" for ")[0] for t in said(other)]
        assert set(found) <= alike
        assert len(found) == min(len(alike), 2)


def test_experts_that_are_never_chosen():
    routed = routed_by()
    values = routed.logits.clone()
    values[:, 5:] = -torch.inf
    other = dataclasses.replace(routed, ids=values.topk(3, dim=1).indices)
    assert said(other) == ["experts 5-7 are never chosen"]


def test_scores_that_are_rounded_before_the_choice():
    routed = routed_by()
    close = dataclasses.replace(routed, logits=1 + routed.logits / 100)
    rounded = close.logits.bfloat16().double()
    other = dataclasses.replace(close, ids=rounded.topk(3, dim=1).indices)
    assert int((~are_valid(other)).sum()) >= 3
    assert said(other)[0].startswith("experts are chosen by scores that are rounded to bf16")


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.sampled_from(sorted(LAYERS)))
def test_of_a_random_choice_nothing_is_said(seed, layer):
    routed = routed_by(seed, **LAYERS[layer])
    generator = torch.Generator().manual_seed(seed + 5000)
    ids = torch.rand(TOKENS, EXPERTS, generator=generator).topk(3, dim=1).indices
    assert said(dataclasses.replace(routed, ids=ids)) == []


def test_of_the_right_choice_and_of_one_wrong_token_nothing_is_said():
    routed = routed_by()
    assert said(routed) == []
    ids = routed.ids.clone()
    ids[3] = ids[4]
    assert not bool(are_valid(dataclasses.replace(routed, ids=ids))[3])
    assert said(dataclasses.replace(routed, ids=ids)) == []


def test_of_few_wrong_tokens_a_rule_is_named_that_gives_the_experts_of_all():
    """Two wrong tokens were too few, though the six others fit the same rule; or two rules do."""
    for seed in range(40):
        routed = routed_by(seed, **LAYERS["groups"], top_k=2)
        routed = dataclasses.replace(routed, logits=routed.logits[:8], ids=routed.ids[:8])
        rules = dict(choices(routed))
        other = dataclasses.replace(
            routed, ids=rules["groups are ranked by their best expert alone"]
        )
        if int((~are_valid(other)).sum()) == 2:
            break
    assert "groups are ranked by their best expert alone" in said(other)
    right = are_valid(other).nonzero().flatten()[0]
    ids = other.ids.clone()
    ids[right] = (ids[right] + 1) % EXPERTS
    assert said(dataclasses.replace(other, ids=ids)) == []
