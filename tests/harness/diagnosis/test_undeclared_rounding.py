"""A failure that an undeclared rounding explains is told as that, with the line to declare."""

from __future__ import annotations

import pytest

from harness.diagnosis import undeclared_rounding
from harness.execute import run_case
from harness.record.result import Verdict
from tests.harness.checks.rounding_members import HERE
from tests.harness.execute_ranks import case, context

pytestmark = pytest.mark.usefixtures("one_thread")


def cause_of(name):
    fields = {"m": 64, "n": 32, "k": 32, "num_experts": 8, "top_k": 2}
    found = run_case(case(**fields, experts=f"{HERE}:{name}"), context())
    assert found.verdict is Verdict.FAILED
    return [cause for call in found.diagnosis.calls for cause in call.causes]


def test_a_rounding_that_the_row_excludes_is_named_with_the_line_to_declare():
    causes = cause_of("HiddenStep")
    assert {cause.name for cause in causes} == {"undeclared_rounding"}
    text = causes[0].cause
    assert text.startswith(
        'a rounding that the row does not declare: activated_gate = "model" where it states "f32"; '
        "declare numerics=Numerics(gemm1="
    )
    assert 'activated_gate="model"' in text.partition("declare")[2].partition("declare")[2]
    assert f"python -m harness numerics --experts {HERE}:HiddenStep measures it" in text


def test_a_member_that_is_more_exact_than_its_row_is_told_so():
    causes = cause_of("TooExact")
    assert {cause.name for cause in causes} == {"more_exact"}
    text = causes[0].cause
    assert text.startswith(
        'the member is more exact than its row declares: gemm1 = "f32" where it states "model"'
    )


def test_a_wrong_output_is_not_taken_for_a_rounding():
    assert "rounding" not in "".join(cause.name for cause in cause_of("LateSlot"))


def test_numerics_that_leave_all_of_the_error_explain_nothing(monkeypatch):
    monkeypatch.setattr(undeclared_rounding, "_error", lambda calls: 1.0)
    assert "undeclared_rounding" not in {cause.name for cause in cause_of("HiddenStep")}


def test_a_hidden_router_that_rounds_otherwise_than_its_row_states_is_told_with_the_line():
    layer = "tests.harness.rounding_layers:SaysFloat32"
    fields = {"m": 24, "n": 64, "k": 64, "num_experts": 8, "top_k": 4}
    got = run_case(case(**fields, experts="own", layer=layer), context())
    assert got.verdict is Verdict.FAILED
    causes = {cause.cause for call in got.diagnosis.calls for cause in call.causes}
    assert causes == {
        "its router rounds as the row does not declare: declare rounding=RouterNumerics.as_torch() "
        f"(python -m harness numerics --layer {layer} measures it)"
    }
