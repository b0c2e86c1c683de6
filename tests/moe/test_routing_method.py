"""A routing method says what it asks of a router, and passes only that."""

import dataclasses

import pytest

from moe.routing_method import OPTIONS, RoutingMethod
from moe.spec import ROUTING_FIELDS, LayerSpec

PLAIN = RoutingMethod(top_k=2)
SIZES = {"m": 1, "hidden": 8, "intermediate": 8, "num_experts": 8, "top_k": 1}


@pytest.mark.parametrize(
    ("fields", "options", "arguments"),
    [
        ({}, (), {}),
        ({"renormalize": False, "router": "sigmoid"}, (), {}),
        ({"bias": True}, ("bias",), {"bias": "tensor"}),
        (
            {"groups": 4, "chosen_groups": 2},
            ("groups",),
            {"groups": 4, "chosen_groups": 2},
        ),
        ({"groups": 4, "chosen_groups": 4}, (), {}),
        ({"scale": 2.5}, ("scale",), {"scale": 2.5}),
        ({"logits_dtype": "f32"}, ("logits_dtype",), {}),
    ],
)
def test_only_what_differs_from_plain_top_k_is_asked_and_passed(fields, options, arguments):
    method = dataclasses.replace(PLAIN, **fields)
    assert method.options == options
    assert set(options) <= set(OPTIONS)
    assert method.arguments("tensor") == arguments


def test_a_layer_gives_its_whole_routing_as_one_value():
    routed = LayerSpec(
        **SIZES,
        router="sigmoid",
        renormalize=False,
        router_bias=True,
        router_groups=4,
        chosen_groups=2,
        router_scale=2.5,
        logits_dtype="f32",
        weights_input=True,
    )
    changed = {
        field.name
        for field in dataclasses.fields(RoutingMethod)
        if getattr(routed.routing_method, field.name)
        != getattr(LayerSpec(**SIZES).routing_method, field.name)
    }
    assert changed == {field.name for field in dataclasses.fields(RoutingMethod)} - {"top_k"}
    assert len(ROUTING_FIELDS) == len(dataclasses.fields(RoutingMethod))
