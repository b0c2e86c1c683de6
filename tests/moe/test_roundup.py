"""Padded sizes: what a row needs, what the layer asks for, and who sees which."""

import dataclasses

import pytest

from moe.layout import Layout
from moe.quant import QUANT
from moe.roundup import Alignment, Padded, rounded_up
from moe.spec import LayerSpec, Needs, Platform, Scheme

PLAIN = LayerSpec(m=4, hidden=2880, intermediate=2880, num_experts=8, top_k=2, pads=True)
CHIP = Platform(name="chip", device="cuda", features=frozenset({"gfx950"}))
MXFP4 = Scheme(weights="mxfp4", activations="model")
FEATURED = Needs(
    formats=frozenset({("mxfp4", "model"), ("model", "model")}),
    dequantizes=True,
    hidden_multiple=64,
    alignments=(
        Alignment(weights=frozenset({"mxfp4"}), hidden=128, shard=128),
        Alignment(
            weights=frozenset({"mxfp4"}), features=frozenset({"gfx950"}), hidden=256, shard=256
        ),
    ),
)


@pytest.mark.parametrize(
    ("scheme", "features", "padded"),
    [
        (PLAIN.scheme, set(), None),  # 2880 is 45 * 64
        (MXFP4, set(), Padded(hidden=2944, shards=(2944,))),
        (MXFP4, {"gfx950", "rocm"}, Padded(hidden=3072, shards=(3072,))),
    ],
)
def test_multiples_depend_on_the_format_and_the_chip(scheme, features, padded):
    layer_spec = dataclasses.replace(PLAIN, scheme=scheme)
    found = rounded_up(layer_spec, FEATURED, frozenset(features))
    assert found.padded == padded
    assert (found.hidden, found.intermediate) == (2880, 2880), "what readers of the layer see"


def test_each_rank_s_shard_is_padded_by_itself():
    layer_spec = dataclasses.replace(PLAIN, intermediate=10, layout=Layout(tp_size=3))
    found = rounded_up(layer_spec, Needs(shard_multiple=4))
    assert layer_spec.shard_sizes == found.shard_sizes == (4, 3, 3)
    assert found.for_experts().shard_sizes == (4, 4, 4)


def test_experts_see_padded_sizes_and_everything_else_as_it_was():
    found = rounded_up(dataclasses.replace(PLAIN, hidden=100, roundup=256), Needs())
    seen = found.for_experts()
    assert (seen.hidden, seen.unpadded_hidden, seen.shard_sizes) == (256, 100, (3072,))
    assert (seen.intermediate, seen.top_k, seen.roundup) == (2880, 2, 256)


def test_nothing_to_pad_leaves_the_layer_as_it_is():
    assert rounded_up(PLAIN, Needs(hidden_multiple=64)) is PLAIN
    assert PLAIN.for_experts() is PLAIN


def test_a_layer_can_ask_for_more_than_the_row_needs():
    found = rounded_up(dataclasses.replace(PLAIN, roundup=128), Needs(hidden_multiple=96))
    assert found.padded == Padded(hidden=3072, shards=(2944,))  # of both 96 and 128, of 128


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"pads": False, "hidden": 100}, "hidden size 100 is not a multiple of 64"),
        ({"pads": False, "scheme": MXFP4}, "hidden size 2880 is not a multiple of 256"),
        (
            {"pads": False, "scheme": MXFP4, "hidden": 3072},
            "a rank's intermediate size 2880 is not a multiple of 256",
        ),
        ({"pads": True, "hidden": 100}, None),
        ({"pads": True, "scheme": MXFP4}, None),
        ({"pads": False, "hidden": 100, "roundup": 64}, None),
        ({"pads": False, "hidden": 100, "roundup": 25}, "hidden size 100 is not a multiple of 64"),
    ],
)
def test_a_size_is_refused_only_if_it_is_not_padded(changes, text):
    reason = FEATURED.refusal(dataclasses.replace(PLAIN, **changes), CHIP)
    assert (reason and reason.text) == text
    assert text is None or reason.code == "size_not_multiple"


def test_a_probe_sees_padded_sizes():
    needs = Needs(hidden_multiple=128, probe=f"{__name__}:seen_sizes")
    assert needs.refusal(dataclasses.replace(PLAIN, hidden=100), CHIP).text == "128 of (2880,)"


def seen_sizes(layer_spec, _):
    from moe.spec import Reason

    return Reason(code="probed", text=f"{layer_spec.hidden} of {layer_spec.shard_sizes}")


def test_methods_pad_unless_their_shards_end_at_blocks_anyway():
    pads = {row.name: row.pads for row in QUANT}
    assert (pads["none"], pads["fp8_channel"], pads["fp8_block"]) == (True, True, False)
