"""Where a router rounds: what a row may state, and which dtypes follow for a layer."""

import pytest

from moe.router_numerics import (
    CUSTOMARY,
    PLACES,
    PLAIN,
    RouterNumerics,
    StatesRounding,
    alternatives,
    declaration,
    only_of_weights,
)

LAYER = {"logits": "bf16", "model": "fp16", "bias": False, "renormalize": True}


def dtypes(numerics, **changes):
    resolved = numerics.resolved(**{**LAYER, **changes})
    return {name: getattr(resolved, name) for name in PLACES}


def test_what_is_left_out_is_float32():
    assert set(dtypes(RouterNumerics()).values()) == {"f32"}
    assert RouterNumerics().resolved(**LAYER).is_plain
    weights = RouterNumerics(weights="model")
    assert dtypes(weights) == {**dtypes(PLAIN), "weights": "fp16"}


@pytest.mark.parametrize(
    ("stated", "changes", "narrow"),
    [
        ({}, {}, PLACES),
        ({}, {"bias": True}, set(PLACES) - {"keys", "groups"}),  # the bias is in float32
        ({"total": "f32"}, {}, {"inner", "scores", "keys", "groups", "chosen"}),
        ({"total": "f32"}, {"renormalize": False}, set(PLACES) - {"total"}),
        ({"scaled": "f32"}, {}, set(PLACES) - {"scaled"}),
        ({}, {"logits": "f32"}, ()),
    ],
)
def test_what_torch_makes_of_logits_follows_from_their_dtype(stated, changes, narrow):
    found = dtypes(RouterNumerics.as_torch(**stated), **changes)
    assert {name for name, dtype in found.items() if dtype == "bf16"} == set(narrow)
    assert set(found.values()) <= {"bf16", "f32"}


def test_two_narrow_dtypes_are_joined_in_float32():
    assert dtypes(RouterNumerics.as_torch(total="model"))["weights"] == "f32"
    assert dtypes(RouterNumerics.as_torch(total="model"), model="bf16")["weights"] == "bf16"


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"weights": "f16"}, "weights of a router is kept in 'f16'; it must be f32, bf16, fp16, "),
        ({"scores": "same"}, "scores of a router is kept in 'same'; .* logits or model$"),
    ],
)
def test_another_word_is_named_with_those_there_are(stated, message):
    with pytest.raises(ValueError, match=message):
        RouterNumerics(**stated)


def test_the_choice_is_by_rounded_values_only_if_something_before_it_is_rounded():
    for name in PLACES:
        resolved = RouterNumerics(**{name: "bf16"}).resolved(**LAYER)
        assert resolved.rounds_choice == (name in ("inner", "scores", "keys", "groups"))
        assert not resolved.is_plain
        assert not only_of_weights(resolved).rounds_choice


def test_a_silent_row_may_round_as_is_customary():
    tried = alternatives(None, **LAYER)
    assert next(iter(tried)) == PLAIN
    assert tuple(tried.values()) == CUSTOMARY
    assert tried[RouterNumerics.as_torch().resolved(**LAYER)] == RouterNumerics.as_torch()
    assert alternatives(None, **{**LAYER, "logits": "f32", "model": "f32"}) == {PLAIN: PLAIN}
    stated = RouterNumerics(scaled="model")
    assert alternatives(stated, **LAYER) == {stated.resolved(**LAYER): stated}


def test_how_far_roundings_move_a_sum():
    assert PLAIN.sum_error(renormalize=True) == 0
    chosen = RouterNumerics(scores="bf16", chosen="bf16")
    assert chosen.sum_error(renormalize=True) == 0  # their sum is that of rounded scores, too
    assert chosen.sum_error(renormalize=False) == (1 + 2.0**-8) ** 2 - 1
    weights = RouterNumerics(total="fp16", weights="bf16")
    assert weights.sum_error(renormalize=False) == 2.0**-8
    assert weights.sum_error(renormalize=True) == (1 + 2.0**-8) / (1 - 2.0**-11) - 1


def test_a_declaration_is_the_expression_to_paste():
    assert declaration(PLAIN) == "RouterNumerics()"
    numerics = RouterNumerics(scores="logits", total="same")
    assert declaration(numerics) == 'RouterNumerics(scores="logits", total="same")'
    assert declaration(RouterNumerics.as_torch()) == "RouterNumerics.as_torch()"
    but_one = RouterNumerics.as_torch(total="f32")
    assert declaration(but_one) == 'RouterNumerics.as_torch(total="f32")'
    assert all(eval(declaration(one)) == one for one in (numerics, but_one, *CUSTOMARY))


def test_a_device_s_own_rounding_goes_before_that_with_a_bias():
    narrow, biased = RouterNumerics(weights="logits"), RouterNumerics(scores="logits")
    row = StatesRounding(rounding=PLAIN, rounding_with_bias=biased, rounding_on={"cpu": narrow})
    assert row.stated_rounding("cuda", bias=False) == PLAIN
    assert row.stated_rounding("cuda", bias=True) == biased
    assert row.stated_rounding("cpu", bias=False) == row.stated_rounding("cpu", bias=True) == narrow
    assert StatesRounding().stated_rounding("cpu", bias=True) is None


def test_the_steps_of_a_log_sum_are_rounded_only_where_nothing_is_divided():
    stated = RouterNumerics(log_sum="logits")
    plain = LAYER | {"renormalize": False}
    assert stated.resolved(**plain).log_sum == "bf16"
    assert stated.resolved(**LAYER).is_plain
    assert RouterNumerics.as_torch().log_sum == "f32"
    assert stated.resolved(**plain).sum_error(renormalize=False) == float("inf")
    assert declaration(stated) == 'RouterNumerics(log_sum="logits")'
    with pytest.raises(ValueError, match="log_sum of a router is kept in 'same'; it must be f32"):
        RouterNumerics(log_sum="same")
