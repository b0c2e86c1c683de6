"""Runner of the mistakes: which lines an edit changes, which cases reach them, what is shown."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from harness.record.diagnosis import CallDiagnosis, Diagnosis, NamedCause, StageFinding
from harness.record.result import CaseResult, Verdict
from tests.blind import run_mistakes
from tests.blind.run_mistakes import (
    Mistake,
    causes,
    changed_lines,
    drawn,
    first_stage,
    mistakes,
    parsed,
    reaching,
    show,
)

FIELDS = {"stage": "out", "seen": "", "cause": ""}


PLANTED = [m for name in run_mistakes.ROUNDS for m in mistakes(run_mistakes.HERE / name)]


@pytest.mark.parametrize("mistake", PLANTED, ids=lambda mistake: mistake.name)
def test_each_mistake_fits_the_file_that_it_edits(mistake):
    text = (run_mistakes.ROOT / mistake.file).read_text(encoding="utf-8")
    planted = mistake.planted_in(text)
    ast.parse(planted)
    assert planted != text
    assert changed_lines(text, planted)


def test_an_edit_that_no_longer_fits_is_named():
    mistake = Mistake(name="late", file="moe/layer.py", old="x", new="y", **FIELDS)
    with pytest.raises(ValueError, match=r"late: `old` must be in moe/layer.py once, not 2"):
        mistake.planted_in("x and x")


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        ("a\nB\nc\nd", {2}),  # replaced
        ("a\nc\nd", {2}),  # removed
        ("a\nb\nnew\nc\nd", {3}),  # inserted before the third
        ("b\na\nc\nd", {1, 2}),  # moved
        ("a\nb\nc\nd", set()),
    ],
)
def test_changed_lines_are_those_of_the_text_before(after, lines):
    assert changed_lines("a\nb\nc\nd", after) >= lines
    assert bool(changed_lines("a\nb\nc\nd", after)) is bool(lines)


def test_a_case_reaches_a_mistake_by_a_changed_line_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(run_mistakes, "ROOT", tmp_path)
    (tmp_path / "moe").mkdir()
    (tmp_path / "moe" / "a.py").write_text("one\ntwo\nthree\n", encoding="utf-8")
    mistake = Mistake(name="m", file="moe/a.py", old="two", new="2", **FIELDS)
    record = {"hit": [["a.py", 2]], "beside": [["a.py", 3]], "elsewhere": [["b.py", 2]]}
    assert reaching(mistake, record) == ["hit"]


def test_a_draw_has_each_token_rare_ones_first():
    ids = [f"m:8-n:64-experts:a-seed:{i}" for i in range(9)]
    ids += ["m:8-n:64-experts:b-padding:end", "m:8-n:64-experts:b"]
    assert drawn(ids, 100) == [*drawn(ids, 100)]
    assert sorted(drawn(ids, 100)) == sorted(ids)
    assert "m:8-n:64-experts:b-padding:end" in drawn(ids, 1 + 9)
    common = ["m:8-a", "m:8-b", "m:8-a-rare"]
    assert drawn(common, 2)[:1] == ["m:8-b"]  # the rarest tokens are `b` and `rare`
    assert drawn(common, 2)[1:] == ["m:8-a-rare"]


def _result(**call) -> CaseResult:
    diagnosis = Diagnosis(rank=0, failed=(0,), of=2, calls=(CallDiagnosis(call=0, **call),))
    return CaseResult(
        case_id="m:8-n:64-k:64-e:4-topk:2-experts:triton",
        verdict=Verdict.FAILED,
        messages=("rank 0: wrong",),
        diagnoses=(diagnosis,),
    )


def test_the_first_stage_of_a_diagnosis_and_its_best_cause_are_shown():
    stages = tuple(StageFinding(stage=s, text="", bad=1, of=2, where={}) for s in ("ids", "gemm1"))
    named = tuple(NamedCause(name=n, cause=n, residual=0.0) for n in ("zeros", "doubled"))
    result = _result(stages=stages, causes=named)
    assert first_stage(result) == "ids"
    assert causes(result) == "zeros"


def test_without_a_wrong_stage_the_first_message_is_shown():
    assert first_stage(_result()) == "wrong"
    assert causes(_result()) == "none"
    hung = CaseResult(case_id="a", verdict=Verdict.HUNG, reason="time_limit")
    assert first_stage(hung) == "time_limit"


def test_the_results_of_a_mistake_are_printed(tmp_path, capsys):
    passed = CaseResult(case_id="a", verdict=Verdict.PASSED)
    data = {"name": mistakes()[0].name, "reached": 3, "ran": 2}
    data["results"] = [_result().to_json(), passed.to_json()]
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(data) + "\n", encoding="utf-8")
    show(parsed(["show", "--out", str(path)]))
    shown = capsys.readouterr().out
    assert "bias_in_weights: expected in router; caught by 1 of 2 cases" in shown
    assert "3 reach it; 1 failed, 1 passed" in shown
    assert "stage 1x: wrong" in shown


def test_the_command_line_names_a_record_and_where_results_go():
    options = parsed(["run", "--record", "a.json", "--out", "b.jsonl", "--most", "3", "one"])
    assert (options.record, options.most, options.names) == (Path("a.json"), 3, ["one"])
    with pytest.raises(SystemExit):
        parsed(["run", "--out", "b.jsonl"])
