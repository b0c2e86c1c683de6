"""A router row names the options that it takes, and refuses a layer that asks for others."""

import pytest

from moe.platforms import platform
from moe.router_numerics import PLAIN, RouterNumerics
from moe.routers.base import OptionsRouter, RouterSpec, RoutingOptions
from moe.spec import LayerSpec, RoutingMethod, first_refusal

SIZES = {"m": 1, "hidden": 8, "intermediate": 8, "num_experts": 8, "top_k": 2}
ASKED = {
    "bias": {"router_bias": True},
    "groups": {"router_groups": 4, "chosen_groups": 2},
    "scale": {"router_scale": 2.5},
    "logits_dtype": {"logits_dtype": "f32"},
}


def row(*takes, **fields):
    names = {"name": "mine", "target": "a:B", "truth": "a:C"}
    return RouterSpec(**names, sums_to_one=False, takes=frozenset(takes), **fields)


def refusal(spec, **fields):
    return first_refusal(spec.asked(platform("cpu")), LayerSpec(**SIZES, **fields))


@pytest.mark.parametrize("word", ASKED)
def test_an_option_is_refused_unless_the_row_takes_it(word):
    assert refusal(row()) is None
    assert refusal(row(word), **ASKED[word]) is None
    reason = refusal(row(), **ASKED[word])
    assert (reason.code, reason.text) == (
        "router_unsupported",
        f"does not name {word!r} in its `takes`",
    )


def test_an_unknown_option_is_named():
    with pytest.raises(ValueError, match="router 'mine' takes 'bais'; choose from bias, groups, "):
        row("bais")


def test_steps_of_a_logarithm_are_stated_of_a_softmax_only():
    with pytest.raises(ValueError, match=r"states `log_sum`.* does not say `sums_to_one`; add it"):
        row(rounding=RouterNumerics(log_sum="logits"))


def test_the_roundings_are_those_that_the_row_states_for_the_layer():
    narrow = RouterNumerics(weights="logits")
    spec = row(rounding=PLAIN, rounding_with_bias=narrow)
    plain = RoutingMethod(top_k=2)
    biased = RoutingMethod(top_k=2, bias=True)
    assert spec.roundings(plain, "bf16") == (PLAIN,)
    assert spec.roundings(biased, "bf16") == (RouterNumerics(weights="bf16"),)
    in_float32 = RoutingMethod(top_k=2, bias=True, logits_dtype="f32")
    assert spec.roundings(in_float32, "bf16") == (PLAIN,)
    assert row(rounding=narrow).roundings(plain, "fp16") == (RouterNumerics(weights="fp16"),)


def test_a_row_that_states_none_may_have_customary_roundings():
    assert len(row().roundings(RoutingMethod(top_k=2), "bf16")) > 3
    assert row().roundings(RoutingMethod(top_k=2), "f32") == (PLAIN,)


def test_a_router_that_always_renormalizes_chooses_by_its_logits():
    tried = row(always_renormalizes=True).roundings(RoutingMethod(top_k=2), "bf16")
    assert len(tried) > 1
    assert not any(numerics.rounds_choice for numerics in tried)


class Echo(OptionsRouter):
    def routed(self, logits, top_k, options):
        return logits, top_k, options


def test_the_options_of_a_call_come_as_one_value():
    plain = RoutingOptions(renormalize=True, bias=None, groups=1, chosen_groups=1, scale=1.0)
    assert Echo()("logits", 3, renormalize=True) == ("logits", 3, plain)
    asked = {"renormalize": False, "bias": "b", "groups": 4, "chosen_groups": 2, "scale": 2.5}
    assert vars(Echo()("logits", 3, **asked)[2]) == asked
    with pytest.raises(TypeError, match="unexpected keyword argument 'bais'"):
        Echo()("logits", 3, renormalize=True, bais="b")
