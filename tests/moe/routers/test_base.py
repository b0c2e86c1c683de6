"""A router row names the options that it takes, and refuses a layer that asks for others."""

import pytest

from moe.platforms import platform
from moe.routers.base import OptionsRouter, RouterSpec, RoutingOptions
from moe.spec import LayerSpec, first_refusal

SIZES = {"m": 1, "hidden": 8, "intermediate": 8, "num_experts": 8, "top_k": 2}
ASKED = {
    "bias": {"router_bias": True},
    "groups": {"router_groups": 4, "chosen_groups": 2},
    "scale": {"router_scale": 2.5},
    "logits_dtype": {"logits_dtype": "f32"},
}


def row(*takes):
    names = {"name": "mine", "target": "a:B", "truth": "a:C"}
    return RouterSpec(**names, sums_to_one=False, takes=frozenset(takes))


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
