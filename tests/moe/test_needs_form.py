"""What a row declares in another form raises at once, and says in which form it belongs."""

import re

import pytest

from moe.layers.layer_row import OwnLayerSpec
from moe.need import ANY, FormatsOn
from moe.needs import Needs
from moe.needs_form import check_names, unknown_format
from moe.routers.base import RouterSpec

PAIRS = "it must be a frozenset of pairs (weights, activations), such as frozenset({('fp8_block', "


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dtypes": "bf16"}, "`dtypes` of needs is the str 'bf16'; it must be a frozenset of"),
        ({"dtypes": frozenset({"half"})}, "names 'half'; choose from bf16, fp16, f32"),
        (
            {"formats": frozenset({"fp8_block"})},
            f"`formats` of needs contains 'fp8_block'; {PAIRS}",
        ),
        ({"formats": frozenset({("a", "b", "c")})}, f"contains ('a', 'b', 'c'); {PAIRS}"),
        ({"formats": ("model", "model")}, f"is the tuple ('model', 'model'); {PAIRS}"),
        ({"routers": "softmax"}, "`routers` of needs is the str 'softmax'"),
        ({"features": frozenset({90})}, "`features` of needs contains 90; it must be a frozenset"),
        ({"layer_features": ["latent"]}, "is the list ['latent']; it must be a frozenset of names"),
        (
            {"formats_on": (FormatsOn(features=frozenset(), formats=frozenset({"x"})),)},
            f"`formats` of needs contains 'x'; {PAIRS}",
        ),
    ],
)
def test_needs_in_another_form_are_an_error_that_shows_the_form(fields, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Needs(**fields)


def test_every_field_of_names_may_be_any():
    Needs(dtypes=ANY, formats=ANY, activation_functions=ANY, layer_features=ANY, routers=ANY)


def test_what_a_layer_or_router_takes_are_names_and_never_any():
    check_names("x", frozenset(), "tp", or_any=False)
    named = {"name": "r", "target": "x:Y"}
    for value in ("tp", ANY):
        with pytest.raises(ValueError, match=r"`takes` of router 'r' is .*\({'bias'}\)$"):
            RouterSpec(**named, truth="x:Z", sums_to_one=True, takes=value)
        with pytest.raises(ValueError, match=r"`takes` of layer 'r' is .*\({'tp'}\)$"):
            OwnLayerSpec(**named, takes=value)


def test_a_format_that_nobody_has_is_pointed_out_with_the_closest():
    assert unknown_format(frozenset({("model", "model"), ("pkg:Class", "model")})) == ""
    pair = frozenset({("fp8_blok", "fp8_group")})
    assert unknown_format(pair) == " (no format is called 'fp8_blok': did you mean 'fp8_block'?)"
    assert unknown_format(frozenset({("zzz", "q")})) == " (no format is called 'zzz')"
