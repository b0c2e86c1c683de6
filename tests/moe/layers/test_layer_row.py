"""What the row of a whole layer takes and refuses."""

import pytest

from moe.layers.layer_row import TAKES, OwnLayerSpec, layout_words
from moe.layout import Layout
from moe.platforms import platform
from moe.spec import ANY, LayerSpec, Needs, Scheme


def quantized(needs, **more):
    """Why a layer with these needs refuses fp8 blocks."""
    row = OwnLayerSpec(name="layer", target="json:loads", needs=needs)
    scheme = Scheme(weights="fp8_block", activations="fp8_group")
    sizes = {"m": 1, "hidden": 128, "intermediate": 128, "num_experts": 4, "top_k": 2}
    return row.refusal(LayerSpec(**sizes, scheme=scheme, **more), platform("cpu"))


def test_a_layer_takes_the_pairs_of_its_needs():
    taken = Needs(formats=frozenset({("fp8_block", "fp8_group")}))
    assert quantized(taken) is None
    assert quantized(Needs(formats=ANY)) is None
    assert quantized(Needs()).code == "scheme_unsupported"
    # Each half of the pair by itself is not enough.
    halves = Needs(formats=frozenset({("fp8_block", "model"), ("model", "fp8_group")}))
    assert quantized(halves).text == (
        "takes fp8_block with model, model with fp8_group, not fp8_block with fp8_group"
    )


def test_other_needs_of_a_layer_are_asked_after_the_pair():
    assert quantized(Needs(), dtype="fp16").code == "scheme_unsupported"
    assert quantized(Needs(formats=ANY), dtype="fp16").code == "dtype_unsupported"
    assert quantized(Needs(formats=ANY), activation="gelu_tanh").code == "activation_unsupported"


def refused(row, **fields):
    """(code, text) of a row's refusal, or None."""
    sizes = {"m": 1, "hidden": 8, "intermediate": 8, "num_experts": 4, "top_k": 1}
    reason = row.refusal(LayerSpec(**{**sizes, **fields}), platform("cpu"))
    return reason and (reason.code, reason.text)


@pytest.mark.parametrize(
    ("word", "fields", "code"),
    [
        ("dp", {"layout": Layout(dp_size=2)}, "layout_unsupported"),
        ("tp", {"layout": Layout(tp_size=2)}, "layout_unsupported"),
        ("shared", {"shared_experts": 1}, "shared_experts_unsupported"),
        ("no_renorm", {"renormalize": False}, "renormalize_unsupported"),
    ],
)
def test_a_layer_is_asked_only_for_what_it_takes(word, fields, code):
    taking = OwnLayerSpec(name="layer", target="x:Y", takes=frozenset({word}))
    assert refused(taking, **fields) is None
    without = OwnLayerSpec(name="layer", target="x:Y", takes=frozenset(TAKES) - {word})
    assert refused(without, **fields) == (code, f"does not name {word!r} in its `takes`")
    assert refused(without) is None


def test_a_layout_is_told_in_words():
    assert layout_words(Layout()) == []
    assert layout_words(Layout(use_ep=True)) == [], "one rank has all experts anyway"
    split = Layout(dp_size=2, tp_size=2, use_ep=True, sequence_parallel=True)
    assert layout_words(split) == ["dp", "tp", "ep", "sp"]


def test_a_gate_has_a_hidden_column_for_each_expert_unless_it_is_given_logits():
    gated = OwnLayerSpec(name="layer", target="x:Y")
    assert refused(gated, num_experts=8) is None
    assert refused(gated, num_experts=9)[0] == "gate_not_realisable"
    on_logits = OwnLayerSpec(name="layer", target="x:Y", takes_logits=True)
    assert refused(on_logits, num_experts=9) is None


def test_a_layer_s_routers_are_those_that_it_names():
    row = OwnLayerSpec(name="layer", target="x:Y", routers=frozenset({"sigmoid"}))
    assert refused(row, router="sigmoid") is None
    assert refused(row) == ("router_unsupported", "has the router sigmoid, not softmax")
    by_any = OwnLayerSpec(name="layer", target="x:Y", routers=ANY)
    assert refused(by_any, router="of another package") is None
