"""Planted mistakes are named with their pattern and cause; what no known one explains, is not."""

from __future__ import annotations

import dataclasses

import torch

from harness import mutants
from harness.checks import output_rows
from harness.checks.check import FAILED_CALLS, Observation
from harness.checks.output import judge
from harness.checks.stage_bound import Expected, compare
from harness.diagnosis import causes, diagnose
from harness.diagnosis.diagnose import explain
from harness.diagnosis.evidence import Evidence
from harness.diagnosis.patterns import find_mismatch
from harness.fixtures.layer_under_test import numerics_of
from harness.fixtures.rank_context import RankContext
from harness.record.diagnosis import CallDiagnosis, NamedCause
from harness.record.result import Finding, Topic
from moe.layout import Layout
from moe.reference.layer import BaselineSiluAndMul
from tests.harness.diagnosis.explained import (
    CALL,
    REFERENCE,
    RIGHT,
    explained,
    findings_of,
    names,
    texts,
)
from tests.harness.diagnosis.mistaken import CASE, CPU, call_of, scene, with_output

EP2 = CASE.replace(dp_size=2, use_ep=True)
IDS = CALL.output.routing.topk_ids
WEIGHTS = CALL.output.routing.topk_weights


class Swapped(BaselineSiluAndMul):
    """Reads [gate; up] as [up; gate]."""

    def weights(self, e):
        w13, w2 = super().weights(e)
        return torch.cat(w13.chunk(2)[::-1]), w2


class Expert5Negated(BaselineSiluAndMul):
    def weights(self, e):
        w13, w2 = super().weights(e)
        return w13, -w2 if e == 5 else w2


def variant(kind, ids=IDS, weights=WEIGHTS):
    return REFERENCE.remade(kind)(CALL.tokens.x, ids, weights).out


def test_gate_and_up_swapped():
    found = explained(variant(Swapped))
    assert names(found)[0] == "gate_up_swapped"
    assert found.causes[0].residual < 0.02
    assert texts(found) == ["all rows"]


def test_router_weights_ignored():
    found = explained(variant(BaselineSiluAndMul, weights=torch.ones_like(WEIGHTS)))
    assert names(found)[0] == "weights_ignored"


def test_a_mistake_that_no_chosen_row_shows_is_found_all_the_same():
    """Of 40 rows 16 are chosen when the case runs; the diagnosis looks at the wrong ones."""
    chosen = set(scene(CALL).rows.tolist())
    rows = sorted(set(range(40)) - chosen)[:6]
    out = RIGHT.clone()
    out[rows] = 0
    found = explained(out)
    assert names(found)[0] == "zeros"
    assert found.facts.rows.wrong == 6


def test_one_expert_s_rows_are_a_pattern_though_the_cause_is_unknown():
    found = explained(variant(Expert5Negated))
    assert texts(found) == ["all wrong rows were routed to expert 5"]
    wrong, rows = found.experts["5"]
    assert wrong == rows == int((IDS == 5).any(dim=1).sum())
    assert found.causes == () or names(found)[0] != "zeros"


def test_a_rank_s_share_twice_under_ep():
    call, reference = call_of(EP2)
    routing = call.output.routing
    everything = torch.arange(len(call.tokens.x))
    parts = reference(call.tokens.x, routing.topk_ids, routing.topk_weights, keep=everything).parts
    out = call.answer.out + torch.einsum("rkh,rk->rh", parts[1], routing.topk_weights)
    found = explained(out, EP2)
    assert texts(found) == ["all wrong rows were routed to experts 4-7 (rank 1)"]
    assert names(found)[0] == "rank_twice"
    assert EP2.layout == Layout(dp_size=2, use_ep=True)


def test_a_culprit_is_told():
    found = explained(variant(BaselineSiluAndMul, weights=WEIGHTS * (IDS != 5)))
    assert found.causes[0].cause == "an expert's share was dropped (expert 5)"


def test_messages_of_the_judgement_are_marked_as_told():
    call = with_output(CALL, RIGHT * 2)
    judged = judge(call.output.out, call.answer)
    found = explain(scene(call), call, findings_of(call, judged))
    assert set(found.covers) == set(Topic)


def test_an_output_that_is_right_by_itself_is_not_searched_for_causes():
    judged = judge(CALL.output.out, CALL.answer)
    routing = Finding(check="routing", text="routing: wrong")
    found = explain(scene(CALL), CALL, (routing, *findings_of(CALL, judged)))
    assert (found.causes, found.patterns) == ((), ())
    assert Topic.ROWS not in found.covers
    assert found.metrics["bad_rows"] == 0
    assert found.tried is None


def test_all_calls_share_the_time_and_a_diagnosis_without_time_still_has_its_facts(monkeypatch):
    monkeypatch.setattr(causes, "SECONDS", -1.0)
    found = diagnose.diagnose(observed(Stand(), context(), calls_of(RIGHT * 2, RIGHT * 2)))
    for call in found.calls:
        assert call.untried == len(mutants.HYPOTHESES)
        assert [cause.name for cause in call.causes] == ["which_shares"]  # needs no search
        assert call.facts.rows.wrong == 40


@dataclasses.dataclass(frozen=True)
class Stand:
    """What `diagnose` takes of a subject."""

    case: object = CASE
    reference: BaselineSiluAndMul = REFERENCE
    candidates: object = numerics_of(CASE, "cpu")


def context(folder=None):
    return RankContext(
        rank=0,
        world_size=1,
        device=CPU,
        transport="gloo",
        options={} if folder is None else {"pictures": str(folder)},
    )


def calls_of(*outs):
    return [dataclasses.replace(with_output(CALL, out), number=i) for i, out in enumerate(outs)]


def observed(subject, here, calls):
    """The calls as the check of their outputs leaves them."""
    seen = Observation(subject=subject, context=here, calls=calls)
    return dataclasses.replace(seen, findings=output_rows.findings(seen))


def test_only_failed_calls_are_diagnosed_and_pictured(tmp_path):
    calls = calls_of(RIGHT, RIGHT * 2, RIGHT * 2)
    found = diagnose.diagnose(observed(Stand(), context(tmp_path), calls))
    assert (found.failed, found.of) == ((1, 2), 3)
    assert [call.call for call in found.calls] == [1, 2]
    pictures = [call.picture for call in found.calls]
    assert pictures == [f"{CASE.id}.rank0-call2.png", f"{CASE.id}.rank0-call3.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == pictures
    assert found.calls[1].tried <= 3  # what explained the first is looked at first
    assert names(found.calls[1])[0] == "doubled"


def test_nothing_failed_nothing_said():
    assert diagnose.diagnose(observed(Stand(), context(), calls_of(RIGHT, RIGHT))) is None


def test_a_case_of_many_calls_diagnoses_the_first_ones():
    calls = calls_of(*[RIGHT * 0] * 5)
    found = diagnose.diagnose(observed(Stand(), context(), calls))
    assert (found.failed, len(found.calls)) == ((0, 1, 2, 3, 4), FAILED_CALLS)


def test_another_mistake_in_the_second_call_is_found():
    found = diagnose.diagnose(observed(Stand(), context(), calls_of(RIGHT * 2, RIGHT * 0)))
    assert [names(call)[0] for call in found.calls] == ["doubled", "zeros"]


def test_a_fault_of_the_diagnosis_is_told_and_not_raised():
    calls = calls_of(RIGHT * 2)
    found = diagnose.diagnose(observed(Stand(case=None), context(), calls))
    (call,) = found.calls
    assert call.call == 0
    assert call.fault.startswith("AttributeError: ")


def test_a_picture_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    calls = calls_of(RIGHT * 2)
    found = diagnose.diagnose(observed(Stand(), context(tmp_path / "file"), calls))
    (call,) = found.calls
    assert names(call)[0] == "doubled"
    assert "FileExistsError" in call.picture_fault or "NotADirectory" in call.picture_fault


def of_first_stage(noun, name):
    """Whether a known mistake of this name may contradict a first wrong stage of such numbers."""
    value = torch.ones(4, 4)
    expected = Expected(value=value, tolerance=torch.zeros(1))
    stage = compare("second", 2 * value, expected, {"rows": torch.arange(4)}, noun=noun)
    evidence = Evidence(scene(CALL), CALL, find_mismatch(RIGHT, CALL.answer), stage)
    cause = NamedCause(name=name, cause=name, residual=0.0)
    return diagnose.may_contradict(CallDiagnosis(call=0, causes=(cause,)), evidence)


def test_a_mistake_of_the_output_is_not_named_where_scales_are_wrong_first():
    assert of_first_stage("scales", "halved")
    assert not of_first_stage("elements", "halved")
    assert not of_first_stage("scales", "second_scale_of_all_rows")
