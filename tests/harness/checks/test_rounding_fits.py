"""Outputs tell where a member rounds: each row here states what its own outputs show."""

import pytest

from harness.checks.rounding_fits import measure, trials
from harness.commands.numerics_decision import Fitting, decide
from harness.execute import run_case
from harness.matrix.case import MoETestConfig
from harness.plan import machine
from harness.plan.plan import make_plan
from harness.record.result import Verdict
from harness.record.rounding_fit import PLACES
from moe.experts import EXPERTS
from moe.numerics import Numerics
from moe.quant import QUANT
from tests.harness.checks import places_members
from tests.harness.execute_ranks import context

pytestmark = pytest.mark.usefixtures("one_thread")
HERE = machine.detect()
RIGHT = (
    places_members.WideSum,
    places_members.EveryStep,
    places_members.WeightBeforeRounding,
    places_members.WeightInside,
    places_members.SumsBySlot,
    places_members.SumsInAnyOrder,
)


def cases(experts, quant="none", **changes):
    values = {"m": 16, "n": 128, "k": 128, "num_experts": 8, "experts": experts, "quant": quant}
    return [MoETestConfig(**{**values, "top_k": k, **changes}) for k in (1, 2, 4)]


def ids(points):
    return [case.id for case in points]


def own_rows():
    """Yield every row and quantization that this machine runs: packages may be missing."""
    for row in EXPERTS.built_in:
        for quant in QUANT:
            if make_plan(cases(row.name, quant.name)[:1], HERE).jobs:
                yield pytest.param(row, quant.name, id=f"{row.name}-{quant.name}")


@pytest.mark.skipif(HERE.devices > 0, reason="on a GPU the cases run there, in ranks")
@pytest.mark.parametrize(("row", "quant"), list(own_rows()))
def test_the_rows_of_the_stack_state_what_their_outputs_show(row, quant):
    points = cases(row.name, quant)
    stated = row.numerics_for(points[0].layer_spec.scheme, "cpu")
    decision = decide(measure(ids(points), "cpu"), stated)
    assert decision.fitting is Fitting.REPRODUCED
    assert decision.wrong == ()
    assert not decision.adds
    undetermined = [place.name for place in decision.places if not place.is_determined]
    assert undetermined in ([], ["weight_on"])


@pytest.mark.parametrize("member", RIGHT)
def test_what_a_class_does_is_inferred_without_its_row(member):
    measured = measure(ids(cases(member.row.name)), "cpu")
    decision = decide(measured, Numerics())
    assert decision.fitting is Fitting.REPRODUCED
    inferred, does = decision.to_state.places, dict(member.row.numerics.places)
    free = [place.name for place in decision.places if not place.is_determined]
    assert inferred == does
    # A weight of the output is one of an unrounded intermediate: outputs cannot tell.
    assert free == (["weight_on"] if does["expert"] == "f32" else [])
    assert decide(measured, member.row.numerics).wrong == ()


@pytest.mark.parametrize("member", RIGHT)
def test_a_row_with_the_inferred_numerics_passes(member):
    result = run_case(cases(member.row.name, n=256)[-1], context(1))
    assert result.verdict is Verdict.PASSED


@pytest.mark.parametrize("changes", [{"dtype": "fp16"}, {"activation": "gelu_tanh"}])
def test_other_dtypes_and_activations_are_emulated(changes):
    decision = decide(measure(ids(cases("triton", **changes)), "cpu"), Numerics())
    assert decision.fitting is Fitting.REPRODUCED
    assert decision.to_state.places == places_members.WideSum.row.numerics.places


def test_a_backend_that_is_more_exact_than_its_row_is_told_apart():
    row = places_members.MoreExact.row
    decision = decide(measure(ids(cases(row.name)), "cpu"), row.numerics)
    assert decision.is_more_exact
    assert decision.wrong == ("gemm1", "activation", "expert")
    assert decision.to_state.gemm1 == "f32"


def test_a_row_that_leaves_out_a_rounding_is_wrong():
    row = places_members.RoundsTheGate.row
    decision = decide(measure(ids(cases(row.name)), "cpu"), row.numerics)
    assert decision.wrong == ("activated_gate",)
    assert not decision.is_more_exact
    assert decision.to_state.activated_gate == "model"


def test_a_sum_of_rounded_parts_is_within_the_noise_and_not_reproduced():
    row = places_members.SplitSum.row
    decision = decide(measure(ids(cases(row.name)), "cpu"), row.numerics)
    assert decision.fitting is Fitting.WITHIN
    assert decision.to_state.gemm1 == "model"


@pytest.mark.parametrize("member", [places_members.GateAndUpExchanged, places_members.Unwritten])
def test_wrong_outputs_have_no_explanation(member):
    points = cases(member.row.name)
    decision = decide(measure(ids(points), "cpu"), Numerics())
    assert decision.fitting is Fitting.NONE
    assert decision.first_wrong == points[0].id
    assert decision.to_state == Numerics()


def test_one_expert_per_token_leaves_the_sum_open():
    points = cases(places_members.EveryStep.row.name)[:1]
    decision = decide(measure(ids(points), "cpu"), Numerics())
    assert {"combine", "weight_dtype"}.isdisjoint(decision.to_state.places)
    assert decision.to_state.activated_gate == "model"


def test_a_float32_layer_has_nothing_to_round():
    points = cases("torch_loop", dtype="f32")
    measured = measure(ids(points), "cpu")
    assert len({fit.residual for fit in measured.fits if fit.numerics.weight_on == "output"}) == 1


def test_each_combination_is_tried_once_and_states_only_the_places():
    tried = list(trials())
    assert len(set(tried)) == len(tried) == 576
    assert all(set(numerics.places) == set(PLACES) for numerics in tried)
