"""A place is decided if every combination with another value there is clearly worse."""

import dataclasses

import pytest

from harness.checks.rounding_fits import trials
from harness.commands.numerics_decision import FEWEST, Fitting, decide, is_worse
from harness.record.rounding_fit import PLACES, Fit, Measured
from moe.numerics import Numerics

CASES = tuple(f"m:16-n:128-k:128-e:8-topk:{k}-experts:torch_loop" for k in (1, 2))
FUSED = {"gemm1": "model", "activation": "model", "expert": "model"}
TRUTH = Numerics(
    **{**dict.fromkeys(PLACES, "f32"), "weight_on": "output", "combine_order": "any", **FUSED}
)


def fit_of(numerics, truth=TRUTH, *, ignored=(), noise=0.0):
    """Return a fit that is worse by half a step for each place that differs from the truth."""
    differing = [
        place
        for place in PLACES
        if place not in ignored and getattr(numerics, place) != getattr(truth, place)
    ]
    square = (noise + 0.25 * len(differing),) * 2
    return Fit(numerics=numerics, squares=square, unequal=(100 * len(differing) + 1,) * 2)


def measured(*, used=0.5, **options):
    fits = tuple(fit_of(numerics, **options) for numerics in trials())
    return Measured(cases=CASES, values=(1000, 1000), fits=fits, used=(0.1, used))


def by_name(decision):
    return {place.name: place for place in decision.places}


def test_outputs_that_fit_one_combination_determine_every_place():
    decision = decide(measured(), Numerics())
    assert decision.fitting is Fitting.REPRODUCED
    assert decision.is_right
    expected = {name: v for name, v in TRUTH.places.items() if name != "combine_order"}
    assert decision.to_state.places == expected  # a sum in float32 has no order
    assert by_name(decision)["gemm1"].others == (("f32", 0.5),)


def test_a_place_without_a_difference_stays_open():
    decision = decide(measured(ignored=("expert",)), Numerics())
    assert not by_name(decision)["expert"].is_determined
    assert decision.to_state.expert is None
    assert decision.to_state.gemm1 == "model"


def test_a_stated_value_that_is_not_contradicted_stays_as_it_is():
    stated = Numerics(expert="f32", accumulation=2.0**-22, combine_order="any")
    decision = decide(measured(ignored=("expert",)), stated)
    assert decision.wrong == ()
    kept = decision.to_state
    assert (kept.expert, kept.accumulation, kept.combine_order) == ("f32", 2.0**-22, "any")


def test_of_equal_places_of_the_weight_the_first_or_the_stated_one_is_taken():
    same = measured(ignored=("weight_on",))
    assert decide(same, Numerics()).to_state.weight_on == "output"
    assert not by_name(decide(same, Numerics()))["weight_on"].is_determined
    assert decide(same, Numerics(weight_on="intermediate")).wrong == ()


def test_an_order_is_compared_for_rounded_sums_only():
    truth = dataclasses.replace(TRUTH, combine="model", combine_order="slots")
    slots = decide(measured(truth=truth), Numerics(combine_order="any"))
    assert slots.wrong == ()  # `any` allows the order of the slots
    assert slots.to_state.combine == "model"
    assert slots.to_state.combine_order == "any"
    assert decide(measured(truth=truth), Numerics()).to_state.combine_order == "slots"
    any_order = dataclasses.replace(truth, combine_order="any")
    stated = Numerics(combine_order="slots", combine="model")
    assert decide(measured(truth=any_order), stated).wrong == ("combine_order",)


@pytest.mark.parametrize(
    ("stated", "wrong", "is_more_exact"),
    [
        ({"activated_gate": "model"}, ("activated_gate",), True),
        ({"activated_gate": "model", "combine": "model"}, ("activated_gate", "combine"), True),
        ({"gemm1": "f32"}, ("gemm1",), False),
        ({"gemm1": "f32", "combine": "model"}, ("gemm1", "combine"), False),
        ({"weight_on": "input"}, ("weight_on",), False),
        ({"gemm1": "either"}, (), False),
        ({**FUSED, "weight_dtype": "f32"}, (), False),
    ],
)
def test_a_row_is_wrong_where_it_states_another_value(stated, wrong, is_more_exact):
    decision = decide(measured(), Numerics(**stated))
    assert decision.wrong == wrong
    assert decision.is_more_exact is is_more_exact
    assert decision.is_right is (not wrong)
    for name in wrong:
        assert getattr(decision.to_state, name) == getattr(TRUTH, name)


def test_a_wrong_row_that_no_single_place_explains_names_what_differs():
    """Two places that make up for each other: either value of each fits, but not both."""
    fits = []
    for numerics in trials():
        fit = fit_of(numerics, ignored=("expert", "weighted"))
        is_right = (numerics.expert == "model") != (numerics.weighted == "model")
        worse = dataclasses.replace(fit, squares=(9.0, 9.0), unequal=(900, 900))
        fits.append(fit if is_right else worse)
    stated = Numerics(expert="f32", weighted="f32")
    both = dataclasses.replace(measured(), fits=tuple(fits))
    decision = decide(both, stated)
    assert decision.wrong in (("expert",), ("weighted",))
    assert getattr(decision.to_state, decision.wrong[0]) is None


def contradicted_in(number):
    """As above, but one of both cases fits the row, too."""
    fits = []
    for numerics in trials():
        fit = fit_of(numerics, ignored=("expert", "weighted"))
        is_right = (numerics.expert == "model") != (numerics.weighted == "model")
        squares, unequal = list(fit.squares), [1, 1]
        squares[number], unequal[number] = 9.0, 900
        worse = dataclasses.replace(fit, squares=tuple(squares), unequal=tuple(unequal))
        fits.append(fit if is_right else worse)
    return dataclasses.replace(measured(), fits=tuple(fits))


def test_what_one_expert_alone_says_of_places_that_nothing_determines_is_ambiguous():
    """Codes at ties decide the first case by chance, as there is no sum."""
    once = contradicted_in(0)
    decision = decide(once, Numerics(expert="f32", weighted="f32"))
    assert (decision.ambiguous_at, decision.wrong, decision.is_right) == (CASES[0], (), True)
    determined = decide(once, Numerics(gemm1="f32", expert="f32", weighted="f32"))
    assert determined.ambiguous_at is None
    assert "gemm1" in determined.wrong


def test_what_a_sum_of_experts_alone_contradicts_is_wrong():
    decision = decide(contradicted_in(1), Numerics(expert="f32", weighted="f32"))
    assert (decision.ambiguous_at, decision.is_right) == (None, False)
    assert decision.wrong in (("expert",), ("weighted",))


def test_noise_within_the_tolerance_leaves_small_roundings_open():
    decision = decide(measured(noise=1.0), Numerics())
    assert decision.fitting is Fitting.WITHIN
    assert decision.is_right
    assert decision.to_state.places == {}
    assert decision.first_wrong is None


def test_outputs_beyond_the_tolerance_have_no_explanation_and_name_the_case():
    decision = decide(measured(noise=1.0, used=3.0), Numerics())
    assert decision.fitting is Fitting.NONE
    assert not decision.is_right
    assert decision.first_wrong == CASES[1]


def test_clearly_worse_takes_more_steps_and_more_values():
    best = Fit(numerics=TRUTH, squares=(0.0,), unequal=(0,))
    few = dataclasses.replace(best, squares=(0.5,), unequal=(FEWEST - 1,))
    assert not is_worse(few, best)
    assert is_worse(dataclasses.replace(few, unequal=(FEWEST,)), best)
    noisy = dataclasses.replace(few, unequal=(500,))
    assert not is_worse(dataclasses.replace(noisy, unequal=(900,)), noisy)
