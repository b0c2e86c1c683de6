"""Needs name the first thing that is lacking, and what a row does not name it does not have."""

import pytest

from moe.layout import Layout
from moe.needs import all2all_refusal, experts_refusal
from moe.spec import ANY, LayerSpec, Needs, Platform, Reason, Scheme

CHIP = Platform(name="chip", device="cuda", features=frozenset({"cuda", "sm90"}))


def layer_spec(**fields):
    plain = {"m": 4, "hidden": 128, "intermediate": 256, "num_experts": 8, "top_k": 2}
    return LayerSpec(**{**plain, **fields})


@pytest.mark.parametrize(
    ("needs", "fields", "code", "text"),
    [
        (
            Needs(features=frozenset({"cuda", "rocm", "fp8_e4m3fnuz"})),
            {},
            "platform_lacks_feature",
            "needs fp8_e4m3fnuz, rocm, which chip does not have",
        ),
        (
            Needs(dtypes=frozenset({"bf16", "fp16"})),
            {"dtype": "f32"},
            "dtype_unsupported",
            "takes dtype bf16, fp16, not f32",
        ),
        (
            Needs(formats=frozenset({("fp8_block", "fp8_group")})),
            {},
            "weight_format_unsupported",
            "takes weight_format fp8_block, not model",
        ),
        (
            Needs(formats=frozenset({("model", "model"), ("fp8_tensor", "fp8_static")})),
            {"scheme": Scheme(weights="model", activations="fp8_static")},
            "activation_format_unsupported",
            "takes model weights with activation_format model, not fp8_static",
        ),
        (
            Needs(max_world=1),
            {"layout": Layout(tp_size=2)},
            "too_many_ranks",
            "serves at most 1 rank(s), not 2",
        ),
        (
            Needs(hidden_multiple=16),
            {"hidden": 100},
            "size_not_multiple",
            "hidden size 100 is not a multiple of 16",
        ),
        (
            Needs(shard_multiple=8),
            {"intermediate": 36, "layout": Layout(tp_size=4)},
            "size_not_multiple",
            "intermediate size 9 is not a multiple of 8",
        ),
        (
            Needs(packages=("json", "no_such_package")),
            {},
            "package_missing",
            "package 'no_such_package' is not installed",
        ),
        (Needs(probe=f"{__name__}:says_no"), {}, "probed", "because"),
    ],
)
def test_a_need_that_does_not_hold_is_named(needs, fields, code, text):
    reason = needs.refusal(layer_spec(**fields), CHIP)
    assert reason.code == code
    assert text in reason.text


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dtype": "fp16"}, "dtype_unsupported"),
        ({"scheme": Scheme(weights="model", activations="int8_token")}, "activation_format_"),
        ({"scheme": Scheme(weights="fp8_tensor", activations="model")}, "weight_format_"),
    ],
)
def test_a_capability_that_is_not_named_is_not_supported(fields, code):
    assert Needs().refusal(layer_spec(), CHIP) is None
    assert Needs().refusal(layer_spec(**fields), CHIP).code.startswith(code)


def says_no(layer_spec, platform):
    return Reason(code="probed", text="because")


def says_yes(layer_spec, platform):
    return None


def test_needs_that_hold_refuse_nothing():
    anything = Needs(dtypes=ANY, formats=ANY)
    odd = Scheme(weights="of another package", activations="fp8_static")
    assert anything.refusal(layer_spec(dtype="f32", scheme=odd), CHIP) is None
    needs = Needs(
        features=frozenset({"cuda"}),
        dtypes=frozenset({"bf16"}),
        formats=frozenset({("model", "model")}),
        hidden_multiple=128,
        shard_multiple=128,
        max_world=2,
        packages=("json",),
        probe=f"{__name__}:says_yes",
    )
    assert needs.refusal(layer_spec(layout=Layout(tp_size=2)), CHIP) is None


def test_needs_ask_only_for_what_they_name():
    anything = Needs(dtypes=ANY, formats=ANY)
    assert anything.asked(CHIP) == ()
    limited = Needs(dtypes=ANY, formats=ANY, shard_multiple=8, max_world=2)
    padding = {"scheme", "pads", "roundup"}
    assert [need.reads for need in limited.asked(CHIP)] == [
        {"layout"},
        {"intermediate", "layout"} | padding,
    ]
    plain = Needs()
    assert [need.reads for need in plain.asked(CHIP)] == [{"dtype"}, {"scheme"}]
    assert next(need.reads for need in plain.asked(CHIP, leave_out=())) == {"activation"}


def test_a_fixed_capacity_needs_an_all2all_with_blocks():
    layer = layer_spec(capacity=8)
    assert all2all_refusal(Needs(), layer, CHIP).code == "capacity_unsupported"
    assert all2all_refusal(Needs(capacity=True), layer, CHIP) is None
    assert experts_refusal(Needs(), layer, CHIP) is None


def test_a_scale_over_all_rows_needs_an_all2all_that_brings_them():
    scheme = Scheme(weights="fp8_tensor", activations="fp8_dynamic")
    layer = layer_spec(scheme=scheme)
    reason = all2all_refusal(Needs(formats=ANY), layer, CHIP)
    assert reason.code == "scale_spans_ranks"
    assert "(`spanning_scales` in its needs), where the scale of fp8_dynamic" in reason.text
    assert all2all_refusal(Needs(formats=ANY, spanning_scales=True), layer, CHIP) is None
    assert all2all_refusal(Needs(formats=ANY), layer_spec(), CHIP) is None
    assert experts_refusal(Needs(formats=ANY, dequantizes=True), layer, CHIP) is None


def test_experts_and_all2all_rows_must_name_spread_experts_that_are_split():
    layer = layer_spec(layout=Layout(dp_size=4, use_ep=True, moe_tp_size=2))
    for refusal in (experts_refusal, all2all_refusal):
        reason = refusal(Needs(), layer, CHIP)
        assert reason.code == "layout_unsupported"
        assert "spread experts may be split, too (`moe_tp` in its needs)" in reason.text
        assert refusal(Needs(moe_tp=True), layer, CHIP) is None
    assert Needs().refusal(layer, CHIP) is None  # a router or a quant method sees no ranks


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"features": frozenset({"rocm"})}, "platform_lacks_feature"),
        ({"packages": ("no_such_package",)}, "package_missing"),
    ],
)
def test_a_probe_is_not_loaded_where_features_or_packages_are_lacking(fields, code):
    needs = Needs(**fields, probe="no_such_package.probe:built")
    assert needs.refusal(layer_spec(), CHIP).code == code
    with pytest.raises(ModuleNotFoundError):
        Needs(probe="no_such_package.probe:built").refusal(layer_spec(), CHIP)
