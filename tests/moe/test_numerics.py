"""Numerics: what is stated, what is not, and which values are refused."""

from __future__ import annotations

import dataclasses

import pytest

from moe.numerics import ROUNDED, Numerics, declaration

CHOICES = {
    "weight_on": "output, intermediate or input",
    "weight_dtype": "f32 or model",
    "combine_order": "any or slots",
    "scale": "times_reciprocal or divided",
    "reduction": "f32, model or wire",
}


def test_nothing_is_stated_unless_it_is():
    assert Numerics().places == {}
    assert Numerics().unstated == tuple(
        field.name
        for field in dataclasses.fields(Numerics)
        if field.name not in ("promoted", "aligned")
    )


def test_stated_numerics_leave_nothing_open_and_are_those_of_float32():
    plain = Numerics.stated()
    assert plain.unstated == ()
    assert {getattr(plain, place) for place in ROUNDED if place != "reduction"} == {"f32"}
    assert (plain.reduction, plain.weight_on, plain.accumulation) == ("model", "output", 2.0**-23)
    assert Numerics.stated(gemm1="model") == dataclasses.replace(plain, gemm1="model")


def test_filling_keeps_what_is_stated():
    some = Numerics(gemm1="f32", amax_floor=0.0, accumulation=2.0**-22)
    other = Numerics.stated(gemm1="model", amax_floor=1e-4, activation="model")
    filled = some.filled(other)
    assert (filled.gemm1, filled.amax_floor, filled.accumulation) == ("f32", 0.0, 2.0**-22)
    assert (filled.activation, filled.unstated) == ("model", ())
    assert some.filled(Numerics()) == some


@pytest.mark.parametrize(
    "numerics",
    [
        Numerics(),
        Numerics(gemm1="model", weight_on="input"),
        Numerics(accumulation=2.0**-15.5, promoted=128, aligned=(32, 13)),
        Numerics.stated(activation="either", amax_epsilon=1e-6),
    ],
)
def test_a_declaration_is_the_python_that_states_the_same(numerics):
    text = declaration(numerics)
    assert eval(text, {"Numerics": Numerics}) == numerics
    assert "'" not in text


def test_what_another_member_states_takes_the_place_of_what_is_stated():
    some = Numerics.stated(gemm1="model", weight_on="intermediate")
    other = some.replaced_by(Numerics(weight_on="output", reduction="wire"))
    assert (other.gemm1, other.weight_on, other.reduction) == ("model", "output", "wire")
    assert some.replaced_by(Numerics()) == some


@pytest.mark.parametrize("place", [name for name in ROUNDED if name not in CHOICES])
def test_a_rounding_is_in_float32_or_in_the_layer_s_dtype(place):
    says = f"{place} is 'bf16'; it must be f32 or model, or left out if unknown"
    with pytest.raises(ValueError, match=f"^{says}$"):
        Numerics(**{place: "bf16"})


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_those_that_are_named(name):
    with pytest.raises(ValueError, match=f"^{name} is 'x'; it must be {CHOICES[name]}, or left"):
        Numerics(**{name: "x"})


@pytest.mark.parametrize("name", ["expert", "weighted", "combine", "reduction", "weight_on"])
def test_what_the_reference_must_know_is_not_either(name):
    with pytest.raises(ValueError, match=f"{name} is 'either'; it must be "):
        Numerics(**{name: "either"})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"accumulation": float("nan")},
            r"accumulation is nan; it is a relative error, from 0 to 2\*\*-8, which is bf16's "
            "step; leave it out if unknown",
        ),
        ({"accumulation": 0.005}, "accumulation is 0.005; .* from 0 to 2"),
        ({"accumulation": -(2.0**-9)}, "accumulation is -0.001953125; "),
        ({"activation_error": 0.1}, "activation_error is 0.1; .* more is another function"),
        ({"amax_floor": -1.0}, "amax_floor is -1.0; .* from 0; if the kernel has none, state 0.0"),
        ({"amax_epsilon": float("inf")}, "amax_epsilon is inf; "),
        ({"amax_epsilon": float("nan")}, "amax_epsilon is nan; "),
        ({"promoted": 0}, "promoted is 0; it counts terms: at least 1, or None"),
        ({"aligned": (32, 0)}, r"aligned is \(32, 0\); it is \(terms, bits\), each at least 1"),
    ],
)
def test_numbers_that_no_kernel_has_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Numerics(**fields)
