"""What a failed call's diagnosis is in JSON, and what is said of JSON that is none."""

import copy
import dataclasses
import json

import pytest

from harness.record.diagnosis import CallDiagnosis, Diagnosis, NamedCause
from harness.record.events import CaseEnded, from_line, to_line
from harness.record.result import CaseResult, RankResult, Verdict

VALUES = {"min": -3.0, "max": "inf", "nan": 2, "inf": 1, "zero_rows": "7", "unwritten_rows": ""}
# As runs of format 3 have it: the facts stand among the other keys.
CALL = {
    "call": 1,
    "tokens": 32,
    "covers": ["values", "rows"],
    "output": True,
    "metrics": {"bound_used": 12.5, "worst": "nan"},
    "stages": [{"stage": "gemm1", "text": "x", "bad": 1, "of": 9, "where": {"rows": [1]}}],
    "rows": {"wrong": 8, "of": 32, "numbers": "3, 7-13"},
    "columns": {"wrong": 128, "of": 256, "numbers": "128-255"},
    "elements": {"wrong": 1000, "of": 8192},
    "first": {"row": 3, "column": 128, "actual": "nan", "expected": 0.25},
    "worst": {"row": 9, "column": 200, "actual": 3.5, "expected": -0.5, "over_rms": 7.125},
    "actual": VALUES,
    "expected": {**VALUES, "min": None, "max": None},
    "rel_rms": 0.5,
    "one_minus_cosine": 0.125,
    "experts": {"4": [5, 5], "1": [1, 6]},
    "patterns": [{"name": "experts", "text": "experts 4-7", "data": {"experts": [4, 7]}}],
    "causes": [{"name": "doubled", "cause": "is doubled", "residual": 0.5, "where": ""}],
    "tried": 40,
    "not_applicable": 3,
    "untried": 0,
    "closest": 0.5,
    "faults": ["bad: IndexError"],
    "picture": "a.png",
}
QUIET = {  # whose output by itself is right: nothing was looked for
    **{name: value for name, value in CALL.items() if name not in ("picture", "first", "worst")},
    "output": False,
    "experts": {},
    "patterns": [],
    "causes": [],
}
for name in ("tried", "not_applicable", "untried", "closest", "faults"):
    del QUIET[name]
FAULT = {"call": 0, "fault": "IndexError: oh"}


@pytest.mark.parametrize("data", [CALL, QUIET, FAULT])
def test_the_json_of_a_call_is_what_it_was(data):
    call = CallDiagnosis.from_json(data)
    assert json.loads(json.dumps(call.to_json())) == data


def test_a_call_is_made_of_frozen_values():
    call = CallDiagnosis.from_json(CALL)
    assert (call.facts.rows.wrong, call.wrong_rows, call.experts["4"]) == (8, 8, (5, 5))
    for value in (call, call.facts, call.facts.rows, call.stages[0], call.causes[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.of = 1
    assert CallDiagnosis.from_json(FAULT).wrong_rows == 0


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (("rows", "wrong"), "x", "rows.wrong must be int, not 'x'"),
        (("rows", "wrong"), True, "rows.wrong must be int, not 'True'"),
        (("rows",), 3, "rows must be an object, not '3'"),
        (("covers",), "rows", "covers must be a list, not 'rows'"),
        (("covers", 1), 5, r"covers\[1\] must be str, not '5'"),
        (("experts",), [], "experts must be an object, not "),
        (("experts", "4"), [5], "experts.4 must have 2 values, not 1"),
        (("experts", "4", 0), "5", r"experts.4\[0\] must be int, not '5'"),
        (("first", "actual"), [], "first.actual must be float, not "),
        (("causes", 0), None, r"causes\[0\] must be an object, not 'None'"),
        (("tried",), "many", "tried must be int, not 'many'"),
        (("expected", "nan"), None, "expected.nan must be int, not 'None'"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_place(place, value, error):
    data = copy.deepcopy(CALL)
    *outer, last = place
    inner = data
    for name in outer:
        inner = inner[name]
    inner[last] = value
    with pytest.raises(ValueError, match=f"^{error}"):
        CallDiagnosis.from_json(data)


@pytest.mark.parametrize("name", ["call", "columns", "rel_rms"])
def test_a_value_that_is_missing_is_named(name):
    data = {key: value for key, value in CALL.items() if key != name}
    with pytest.raises(ValueError, match=f"^{name} is missing"):
        CallDiagnosis.from_json(data)


@pytest.mark.parametrize("data", [None, [CALL], "x"])
def test_what_is_no_object_is_no_diagnosis(data):
    with pytest.raises(ValueError, match="must be an object"):
        CallDiagnosis.from_json(data)
    with pytest.raises(ValueError, match="diagnosis must be an object"):
        Diagnosis.from_json(data)


def test_keys_of_others_are_left_out():
    assert CallDiagnosis.from_json({**CALL, "note": 1}) == CallDiagnosis.from_json(CALL)


def test_a_whole_number_is_a_number():
    assert CallDiagnosis.from_json({**CALL, "rel_rms": 1}).facts.rel_rms == 1


def diagnosis():
    calls = tuple(CallDiagnosis.from_json(data) for data in (FAULT, CALL))
    return Diagnosis(rank=2, failed=(0, 1), of=5, every_call=False, calls=calls)


def test_ranks_and_cases_carry_it_through_json():
    rank = RankResult(rank=2, verdict=Verdict.FAILED, diagnosis=diagnosis())
    assert RankResult.from_json(json.loads(json.dumps(rank.to_json()))) == rank
    case = CaseResult(case_id="a", verdict=Verdict.FAILED, diagnoses=(diagnosis(),))
    assert CaseResult.from_json(json.loads(json.dumps(case.to_json()))) == case
    assert case.to_json()["diagnoses"][0]["calls"][0] == FAULT


def test_a_line_of_a_run_with_a_bad_diagnosis_cannot_be_read():
    case = CaseResult(case_id="a", verdict=Verdict.FAILED, diagnoses=(diagnosis(),))
    line = to_line(CaseEnded(time=1.0, gang=1, result=case))
    assert from_line(line).result == case
    with pytest.raises(ValueError, match=r"rows\.wrong must be int"):
        from_line(line.replace('"wrong": 8', '"wrong": "8"').replace('"wrong":8', '"wrong":"8"'))


def test_what_other_calls_contradict_is_in_the_json_of_a_call():
    call = CallDiagnosis(call=0, contradicted=(NamedCause(name="a", cause="b", residual=0.1),))
    assert CallDiagnosis.from_json(json.loads(json.dumps(call.to_json()))) == call
