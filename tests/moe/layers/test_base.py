"""A whole layer's class: the row that its attributes make, and what it is given."""

import pytest
import torch

from moe.collectives import ALONE, Groups
from moe.layers.base import LayerSubject
from moe.spec import LayerSpec, Needs
from tests.moe.layers.mine import Mine


class Derived(Mine):
    takes = frozenset({"tp", "ep"})


def test_the_row_says_what_the_class_says_and_where_it_is():
    assert Mine.row.target == f"{Mine.__module__}:Mine"
    assert (Mine.row.takes, Mine.row.deterministic) == (frozenset({"tp"}), True)
    assert Mine.row.needs == Needs(), "what a class does not name it does not take"
    assert (Mine.row.routers, Mine.row.takes_logits) == (frozenset({"softmax"}), False)


def test_a_derived_class_has_a_row_of_its_own():
    assert Mine.row.takes == frozenset({"tp"})
    assert (Derived.row.name, Derived.row.takes) == ("Derived", frozenset({"tp", "ep"}))
    assert Derived.row.numerics == Mine.numerics


def test_pairs_of_formats_are_named_in_the_needs():
    with pytest.raises(
        ValueError, match=r"layer 'Old' has `schemes`; write needs = Needs\(formats="
    ):
        type("Old", (Mine,), {"schemes": frozenset({("model", "model")})})


def test_a_word_that_no_layer_takes_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError,
        match=r"'X' takes 'cp'; choose from dp, tp, ep, sp, pcp, moe_tp, expert_dp, shared",
    ):
        type("X", (Mine,), {"takes": frozenset({"cp"})})


def test_a_layer_has_its_rank_and_groups():
    layer_spec = LayerSpec(m=1, hidden=8, intermediate=8, num_experts=2, top_k=1)
    groups, device = Groups(gather=ALONE, tp=ALONE), torch.device("cpu")
    layer = Mine(layer_spec, 0, groups, device)
    assert layer.layer_spec is layer_spec
    assert layer.groups is groups
    assert (layer.rank, layer.device) == (0, device)


def test_a_layer_must_load_weights_and_compute():
    missing = type("Missing", (LayerSubject,), {"load": Mine.load})
    with pytest.raises(TypeError, match="forward"):
        missing(None, 0, None, torch.device("cpu"))
