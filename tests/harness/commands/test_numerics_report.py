"""What `numerics` prints: evidence for each place, the state of the row, the line to paste."""

import dataclasses

import pytest

from harness.checks.rounding_fits import trials
from harness.commands.numerics_decision import decide
from harness.commands.numerics_report import lines
from harness.matrix.case import MoETestConfig
from harness.record.rounding_fit import Fit
from moe.layers import OWN
from moe.numerics import Numerics
from moe.spec import Numerics as FromSpec
from tests.harness.commands.test_numerics_decision import CASES, TRUTH, measured

CASE = MoETestConfig(m=16, n=128, k=128, num_experts=8, top_k=1, experts="torch_loop")
STATED = Numerics(**{n: v for n, v in TRUTH.places.items() if n != "combine_order"})


def report(stated=STATED, case=CASE, **options):
    fits = measured(**options)
    return lines(case, fits, decide(fits, stated))


def test_each_place_has_its_value_and_what_others_would_leave():
    shown = report(noise=0.0001, ignored=("expert",))
    assert shown[0].split()[:2] == ["place", "value"]
    assert shown[1].split(maxsplit=2) == ["gemm1", "model", "f32 0.50 (50x)"]
    weight = shown[4].split(maxsplit=2)
    assert weight == ["weight_on", "output", "intermediate 0.50 (50x), input 0.50 (50x)"]
    left_open = "f32 leaves 0.01 and model 0.01"
    assert shown[7].split(maxsplit=1)[1] == f"not determined  {left_open}"
    assert "combine_order" not in "".join(shown[:10])  # of a sum in float32


def test_a_weight_that_can_be_in_two_places_is_taken_at_one():
    shown = report(Numerics(), ignored=("weight_on",), noise=1e-10)
    tie = "output leaves under 0.0001 and intermediate under 0.0001; output is taken"
    assert shown[4].split(maxsplit=1) == ["weight_on", f"not determined  {tie}"]


def test_a_right_row_is_told_so_and_gets_no_line_to_paste():
    assert report()[-2:] == [
        "These roundings reproduce 1998 of 2000 output values bit for bit and leave 0 rounding "
        "steps (rms).",
        "It rounds as its row declares.",
    ]


def test_an_empty_row_gets_the_line_to_paste():
    *_, state, paste, line = report(Numerics())
    assert state == "Its row declares none of these places: they are assumed, case by case."
    assert paste == "Paste into the row:"
    assert line.startswith('  numerics=Numerics(gemm1="model", activated_gate="f32", ')
    pasted = eval(line.strip().removeprefix("numerics=").removesuffix(","), {"Numerics": FromSpec})
    assert pasted == STATED


def test_the_line_of_a_quantized_case_names_its_format_and_that_of_a_layer_is_an_attribute():
    quantized = report(Numerics(), CASE.replace(quant="fp8_block"))[-1]
    assert quantized.startswith('  numerics_of={"fp8_group": Numerics(gemm1="model"')
    assert quantized.endswith(")},")
    layer = CASE.replace(experts=OWN, layer="tests.harness.outside_layers:Right")
    *_, paste, line = report(Numerics(), layer)
    assert paste == "Paste into the class:"
    assert line.startswith('  numerics = Numerics(gemm1="model"')


def test_a_row_that_states_every_place_keeps_that_form():
    stated = Numerics.stated(gemm1="model", expert="model", accumulation=2.0**-22)
    *_, state, _, line = report(stated)
    assert state == "Its row is wrong: activation is model, not f32."
    assert line == (
        '  numerics=Numerics.stated(gemm1="model", activation="model", expert="model", '
        f"accumulation={2.0**-22!r}),"
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"combine": "model"}, "combine is not rounded."),
        (
            {"combine": "model", "weight_dtype": "model"},
            "weight_dtype, combine are not rounded.",
        ),
    ],
)
def test_a_row_that_states_too_many_roundings_is_told_which(more, text):
    state = report(dataclasses.replace(STATED, **more))[-3]
    assert state == f"It is more exact than its row declares: {text}"


def test_noise_that_hides_roundings_is_said():
    shown = "\n".join(report(Numerics(), noise=1.0, used=0.625))
    assert "reproduce only 1998 of 2000 output values" in shown
    assert "within the tolerance for the noise of its sums (62 % of it used)" in shown
    assert "Paste" not in shown


def test_outputs_that_nothing_explains_come_with_the_command_for_their_smallest_case():
    shown = report(Numerics(), noise=2.0, used=3.0)
    assert shown == [
        "No customary rounding explains this: the nearest leaves 1.41 rounding steps (rms).",
        "The smallest case that none explains; its diagnosis names known mistakes:",
        f"  python -m harness run --case {CASES[1]}",
    ]


def test_outputs_that_are_nearly_explained_come_with_the_evidence():
    shown = report(Numerics(), noise=0.25, used=3.0)
    assert shown[0].split()[0] == "place"
    assert shown[-3].endswith("the nearest leaves 0.50 rounding steps (rms).")


def test_outputs_that_are_not_finite_are_called_so():
    fits = tuple(
        Fit(numerics=n, squares=(float("inf"),) * 2, unequal=(1000, 1000)) for n in trials()
    )
    broken = dataclasses.replace(measured(used=float("inf")), fits=fits)
    shown = "\n".join(lines(CASE, broken, decide(broken, Numerics())))
    assert shown.startswith(
        "No customary rounding explains this: the nearest has no finite distance."
    )
    assert shown.count("\n") == 2  # no table


def test_a_row_that_one_case_alone_contradicts_is_called_ambiguous_there():
    fits = measured()
    decision = dataclasses.replace(decide(fits, STATED), ambiguous_at=CASE.id)
    *_, first, second = lines(CASE, fits, decision)
    assert first == "Its row is ambiguous at top_k 1: only there another combination fits better,"
    assert second == "and no place in which both differ is determined."
