"""Cases of a suite get their final result: compared with earlier ones, and with known failures."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from harness.engine.other_seeds import FURTHER
from harness.plan import machine
from harness.record.result import CaseResult, Verdict
from harness.testing.ranks_of_session import KEPT_GANGS_ON_GPUS, RanksOfSession
from harness.testing.suite_cases import SuiteOptions, points_of
from harness.testing.suite_run import SuiteRun
from harness.testing.warm_pool import WarmPool
from tests.harness.testing.pytest_runs import BASE, MATRIX

KNOWN = """\
version: 1
entries:
  - {case: "*tp:2", issue: "https://host/1", expires: 2999-01-01, verdicts: [error]}
  - {case: "*tp:2-seed:1", issue: "https://host/2", expires: 2020-01-01, quarantine: true}
"""


@pytest.fixture
def made(tmp_path):
    """A function that returns a run, and its cases that are not refused by their ids."""
    ranks = RanksOfSession(None, 1)

    def make(**changes):
        for name, text in (("m.yaml", MATRIX), ("known.yaml", KNOWN)):
            (tmp_path / name).write_text(text)
        files = {"matrix": tmp_path / "m.yaml", "known_failures": tmp_path / "known.yaml"}
        options = SuiteOptions(suite="small", **files, **changes)
        run = SuiteRun(options, points_of(options), ranks, tmp_path / "runs")
        return run, {case.case.id: case for case in run.suite.cases if case.job}

    yield make
    ranks.close()


class Answers:
    """Stands in for gangs: results by case id, and which cases were asked for."""

    def __init__(self, **fields):
        self.fields, self.ran = fields, []

    def run(self, job, case):
        self.ran.append(case.id)
        return CaseResult(case_id=case.id, verdict=Verdict.PASSED, **self.fields)


def test_a_real_case_passes_with_its_members(made):
    run, cases = made()
    result = run.run(cases[BASE])
    assert (result.verdict, result.messages) == (Verdict.PASSED, ())
    assert result.members["experts"] == "TorchLoopExperts"


def test_known_failures_apply(made):
    run, cases = made()
    answers = run.__dict__["_cases"] = Answers()
    unexpected = run.run(cases[f"{BASE}-tp:2"])
    assert (unexpected.verdict, unexpected.reason) == (Verdict.FAILED, "unexpected_pass")
    expired = run.run(cases[f"{BASE}-tp:2-seed:1"])
    assert (expired.verdict, expired.reason) == (Verdict.FAILED, "expired_entry")
    assert answers.ran == [f"{BASE}-tp:2"]  # what is in quarantine is never launched


def test_cases_with_the_same_inputs_must_agree(made):
    """Of layouts that have the same tokens, whose compressed rows are far apart."""
    run, _ = made()
    cases = [
        SimpleNamespace(case=SimpleNamespace(id=f"{BASE}{layout}"), job=object())
        for layout in ("", "-tp:4")
    ]
    for value, case, verdict in zip((0.0, 9.0), cases, ("passed", "failed"), strict=True):
        sketch = {"token": 0, "values": [value] * 32, "slack": 0.1}
        run.__dict__["_cases"] = Answers(sketches=(sketch,))
        result = run.run(case)
        assert result.verdict == verdict
    assert f"disagrees with {BASE}" in result.messages[0]


def test_on_gpus_a_worker_keeps_one_gang_on_its_own_devices(made, monkeypatch):
    four = dataclasses.replace(machine.planned_for("cuda_sm90", 4), planned=False)
    monkeypatch.setattr(machine, "detect", lambda: four)
    monkeypatch.setattr(WarmPool, "get", lambda: None)
    run, cases = made(workers=2)
    run._ranks.__dict__["slot"] = 1
    spec = run._cases.spec(cases[f"{BASE}-tp:2"].job)
    assert (spec.devices, spec.transport) == ((2, 3), "nccl")
    assert run._cases._gangs._keep == KEPT_GANGS_ON_GPUS


def test_other_seeds_of_what_shows_nothing_are_tried_as_in_a_run(made):
    run, _ = made()
    assert run._cases._options.other_seeds == FURTHER > 0
