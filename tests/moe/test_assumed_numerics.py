"""Which roundings are tried where a row states none, and in what order."""

from __future__ import annotations

import dataclasses

import pytest

from moe.assumed_numerics import alternatives, ball, candidates
from moe.formats import FORMATS
from moe.numerics import EITHER, FLOAT32_LOSS, Numerics
from moe.spec import Scheme

PLAIN = Scheme(weights="model", activations="model")
FP8 = Scheme(weights="fp8_block", activations="fp8_group")
BEFORE = {"gemm1": "model", "activated_gate": "f32", "activation": "model", "weight_on": "output"}


def tried(stated=Numerics(), scheme=PLAIN, dtype="bf16", device="cpu"):  # noqa: B008
    return alternatives(stated, scheme, dtype, device)


def test_the_most_frequent_roundings_are_tried_first():
    before = [(n.gemm1, n.activated_gate, n.activation) for n in tried()]
    assert before[:4] == [
        ("model", "f32", "model"),
        ("model", "model", "model"),
        ("f32", "f32", "model"),
        ("f32", "f32", "f32"),
    ]
    places = [n.weight_on for n in tried()]
    assert places == sorted(places, key=["output", "intermediate"].index)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "f32"])
@pytest.mark.parametrize("scheme", [PLAIN, FP8], ids=["model", "fp8"])
def test_each_alternative_states_every_place_and_is_tried_once(scheme, dtype):
    found = tried(scheme=scheme, dtype=dtype)
    assert all(numerics.unstated == () for numerics in found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "stated",
    [
        Numerics(gemm1="f32"),
        Numerics(activation="f32", expert="f32", combine="f32"),
        Numerics(weight_on="intermediate", weighted="f32"),
        Numerics(weight_dtype="model", scale="divided", amax_epsilon=1e-6),
        Numerics(weight_on="input", accumulation=2.0**-20, promoted=64),
    ],
)
def test_what_is_stated_stays(stated):
    found = tried(stated)
    assert len(found) > 1
    for numerics in (*found, ball(stated, PLAIN, "bf16", "cpu")):
        assert numerics.places | stated.places == numerics.places


def test_there_is_one_if_all_places_before_the_second_product_are_stated():
    (only,) = tried(Numerics(**BEFORE))
    assert only.places | BEFORE == only.places
    assert (only.expert, only.weighted, only.combine, only.weight_dtype) == (
        *("model", "model", "model"),
        EITHER,
    )
    some = candidates(Numerics(**BEFORE), PLAIN, "bf16", "cpu")
    assert (some.several, some.ball) == (False, only)
    assert candidates(Numerics(), PLAIN, "bf16", "cpu").several
    full = Numerics.stated(gemm1="model")
    assert tried(full) == (full,)


def test_a_float32_layer_has_only_the_places_of_the_weight_to_try():
    found = tried(dtype="f32")
    assert {(n.gemm1, n.activated_gate, n.activation, n.weight_dtype) for n in found} == {
        ("f32", "f32", "f32", "f32")
    }
    assert [n.weight_on for n in found] == ["output", "intermediate"]


@pytest.mark.parametrize("place", ["intermediate", "input"])
def test_the_dtype_of_a_weight_before_the_second_product_is_known(place):
    found = tried(Numerics(weight_on=place))
    assert {n.weight_dtype for n in found} == {"f32", "model"}
    assert {n.weight_dtype for n in tried() if n.weight_on == "output"} == {EITHER}


@pytest.mark.parametrize("fmt", ["model", "fp8_group", "fp8_static", "int8_token"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sums_of_8_bit_floats_on_a_chip_are_short(fmt, device):
    first = tried(scheme=Scheme(weights="model", activations=fmt), device=device)[0]
    is_short = device == "cuda" and FORMATS[fmt].grid == "e4m3"
    expected = (2.0**-15.5, (32, 13)) if is_short else (FLOAT32_LOSS, None)
    assert (first.accumulation, first.aligned) == expected
    exact = tried(Numerics(accumulation=2.0**-20), FP8, device=device)[0]
    assert (exact.accumulation, exact.aligned) == (2.0**-20, None)


def test_the_ball_counts_what_is_open_as_noise():
    whole = ball(Numerics(), PLAIN, "bf16", "cpu")
    assert (whole.gemm1, whole.activated_gate, whole.activation) == (EITHER,) * 3
    some = ball(Numerics(gemm1="model"), PLAIN, "bf16", "cpu")
    assert (some.gemm1, some.activation) == ("model", EITHER)
    assert dataclasses.replace(whole, gemm1="model") == some
