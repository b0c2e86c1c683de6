"""Planted mistakes are named with their pattern and cause; what no known one explains, is not."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from harness import mutants
from harness.checks import output_rows
from harness.checks.check import Observation
from harness.checks.output import judge
from harness.diagnosis import causes, diagnose
from harness.diagnosis.diagnose import explain
from harness.diagnosis.error_stats import number
from harness.diagnosis.patterns import find_mismatch
from harness.fixtures.rank_context import RankContext
from harness.mutants import Hypothesis, NotApplicable
from harness.record.diagnosis import CallDiagnosis, Share
from harness.record.result import Finding, Topic, Verdict
from moe.layout import Layout
from moe.reference.layer import BaselineSiluAndMul
from tests.harness.diagnosis.mistaken import CASE, CPU, call_of, scene, with_output


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine must not make these tests stop looking."""
    monkeypatch.setattr(causes, "SECONDS", 600.0)


EP2 = CASE.replace(dp_size=2, use_ep=True)
CALL, REFERENCE = call_of()
RIGHT = CALL.answer.out
IDS = CALL.output.routing.topk_ids
WEIGHTS = CALL.output.routing.topk_weights


def findings_of(call, judged):
    return tuple(output_rows.findings_of(call, judged))


def explained(out, case=CASE, rank=0):
    call = with_output(call_of(case, rank)[0], out)
    judged = judge(call.output.out, call.answer)
    assert judged.verdict is Verdict.FAILED
    found = explain(scene(call, case, rank), call, findings_of(call, judged))
    text = json.dumps(found.to_json(), allow_nan=False)
    assert CallDiagnosis.from_json(json.loads(text)) == found
    return found


def names(found):
    return [cause.name for cause in found.causes]


def texts(found):
    return [pattern.text for pattern in found.patterns]


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


def test_one_mistake_in_some_rows_only():
    out = RIGHT.clone()
    out[1::2] *= 2
    found = explained(out)
    assert texts(found) == ["odd rows only"]
    assert names(found)[0] == "doubled"
    assert found.causes[0].where == "in the wrong rows only"


def test_one_mistake_in_some_columns_only():
    out = RIGHT.clone()
    out[:, 128:256] *= -1
    found = explained(out)
    assert texts(found) == ["all rows", "columns 128-255 only: one block of 128"]
    assert (found.causes[0].name, found.causes[0].where) == (
        "negated",
        "in the wrong columns only",
    )
    assert found.facts.columns == Share(wrong=128, of=384, numbers="128-255")


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


def test_rows_in_other_rows_places():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    found = explained(RIGHT[order])
    assert names(found) == ["rows_moved"]
    assert found.causes[0].cause.startswith("wrong rows hold other rows' outputs: row 0 that")
    found = explained(torch.cat([RIGHT[-3:], RIGHT[:-3]]))
    text = "each wrong row holds the output of the row 3 before it"
    assert found.causes[0].cause == text
    found = explained(RIGHT[torch.tensor([*range(20), *[4] * 20])])
    assert found.causes[0].cause.endswith("all hold the output of row 4")


@pytest.mark.parametrize(("step", "side", "empty"), [(-2, "after", "38-39"), (2, "before", "0-1")])
def test_rows_that_moved_leave_zeros_behind(step, side, empty):
    out = RIGHT.roll(step, 0)
    out[slice(step, None) if step < 0 else slice(step)] = 0
    found = explained(out)
    assert names(found) == ["rows_moved"]
    text = f"each wrong row holds the output of the row 2 {side} it; rows {empty}"
    assert found.causes[0].cause == f"{text}, which have no such row, are zeros"


def test_zeros_that_have_a_row_to_come_from_are_not_explained_by_rows_that_moved():
    out = RIGHT.roll(-2, 0)
    out[10:20] = 0
    assert names(explained(out)) == []


def test_a_culprit_is_told():
    found = explained(variant(BaselineSiluAndMul, weights=WEIGHTS * (IDS != 5)))
    assert found.causes[0].cause == "an expert's share was dropped (expert 5)"


@pytest.mark.parametrize("size", [0.02, 0.1, 1.0, 10.0])
def test_noise_has_no_known_cause(size):
    generator = torch.Generator().manual_seed(2)
    unit = RIGHT.square().mean(dim=1, keepdim=True).sqrt()
    noise = torch.randn(RIGHT.shape, generator=generator) * unit * size
    found = explained(RIGHT + noise)
    assert found.causes == ()
    assert found.tried > 25
    assert found.closest > causes.MAX_RESIDUAL
    assert found.faults == ()


def test_facts_of_nan_inf_zero_and_unwritten_rows():
    out = RIGHT.clone()
    out[3] = 0
    out[7, 5] = float("nan")
    out[8, 6] = float("-inf")
    out[30:] = float("nan")
    found = explained(out)
    assert found.facts.rows.numbers == "3, 7-8, 30-39"
    assert (found.facts.actual.nan, found.facts.actual.inf) == (1 + 10 * CASE.k, 1)
    assert (found.facts.actual.zero_rows, found.facts.actual.unwritten_rows) == ("3", "30-39")
    assert (found.facts.expected.nan, found.facts.expected.zero_rows) == (0, "")
    assert (found.facts.first.row, found.facts.worst.row) == (3, 3)
    assert found.facts.elements.of == 40 * CASE.k
    assert (number(float("nan")), number(float("-inf")), number(0.5)) == ("nan", "-inf", 0.5)


def test_first_and_worst_elements_have_both_values():
    out = RIGHT.clone()
    out[2, 9] += 10 * float(RIGHT[2].square().mean().sqrt())
    out[6, 1] += 50 * float(RIGHT[6].square().mean().sqrt())
    found = explained(out)
    first, worst = found.facts.first, found.facts.worst
    assert (first.row, first.column, worst.row, worst.column) == (2, 9, 6, 1)
    assert worst.expected == pytest.approx(float(RIGHT[6, 1]))
    assert worst.over_rms == pytest.approx(50, rel=0.02)


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


def search(out, rows=()):
    call = with_output(CALL, out)
    wrong = find_mismatch(call.output.out, call.answer)
    return causes.search(scene(call), call, wrong, rows, seconds=600.0)


def made(compute, name="made"):
    row = Hypothesis(name=name, family="rows", cause="made up")
    object.__setattr__(row, "compute", compute)
    return row


def test_a_near_miss_is_not_named():
    """Half of the distance is explained: closer than anything else, but no cause."""
    result = search(RIGHT * 2, [made(lambda s: s.answer.out * 1.5)])
    assert (result.causes, result.closest) == ((), pytest.approx(0.5, rel=0.02))


def test_what_a_hypothesis_says_of_itself_is_counted():
    def not_here(scene):
        raise NotApplicable("one token")

    def broken(scene):
        raise IndexError("out of range")

    right = made(lambda s: s.answer.out[:4] * 2, "right")
    result = search(RIGHT * 2, [made(not_here), made(broken, "bad"), right])
    assert [cause.name for cause in result.causes] == ["right"]
    assert (result.not_applicable, result.tried) == (1, 1)
    assert result.faults == ("bad: IndexError: out of range",)


def test_time_runs_out_without_a_fault():
    call = with_output(CALL, RIGHT * 2)
    wrong = find_mismatch(call.output.out, call.answer)
    result = causes.search(scene(call), call, wrong, mutants.HYPOTHESES, seconds=-1.0)
    assert result.untried == len(mutants.HYPOTHESES)
    assert result.causes == ()


def test_all_calls_share_the_time_and_a_diagnosis_without_time_still_has_its_facts(monkeypatch):
    monkeypatch.setattr(causes, "SECONDS", -1.0)
    found = diagnose.diagnose(observed(Stand(), context(), calls_of(RIGHT * 2, RIGHT * 2)))
    for call in found.calls:
        assert (call.untried, call.causes) == (len(mutants.HYPOTHESES), ())
        assert call.facts.rows.wrong == 40


def test_nan_on_both_sides_fits_and_on_one_does_not():
    out = RIGHT.clone()
    out[5] = float("nan")

    def poisoned(scene):
        predicted = scene.answer.out.clone()
        predicted[scene.rows == 5] = float("nan")
        return predicted

    found = search(out, [made(poisoned), made(lambda s: s.answer.out, "right")])
    assert [cause.name for cause in found.causes] == ["made"]


@dataclasses.dataclass(frozen=True)
class Stand:
    """What `diagnose` takes of a subject."""

    case: object = CASE
    reference: BaselineSiluAndMul = REFERENCE


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
    assert (found.failed, len(found.calls)) == ((0, 1, 2, 3, 4), diagnose.MOST_CALLS)


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


def test_the_rows_looked_at_know_the_largest_values_of_all_rows():
    """A scale that spans all rows is worked out from them."""
    few = causes.sample_rows(scene(CALL), CALL, torch.zeros(40, dtype=torch.bool))
    assert len(few.rows) < 40
    assert few.answer.amax1 == CALL.answer.amax1
    assert few.answer.amax2 == CALL.answer.amax2
    alone = REFERENCE(few.x, few.topk_ids, few.topk_weights)
    assert alone.amax2 < CALL.answer.amax2


def test_a_value_whose_square_overflows_is_still_a_distance():
    """What lies in a buffer by chance may be 3e38: no cause then "leaves nan %"."""
    actual = torch.tensor([[3e38, 1.0]])
    lengths = causes._lengths(actual, torch.zeros(1, 2), torch.ones(1, 1))
    assert bool(lengths.isfinite().all())
