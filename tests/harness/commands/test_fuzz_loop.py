"""The loop on a clock of the test's own: the budget also bounds the cases that shrinking runs."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace

import pytest

from harness.commands import fuzz_loop, fuzz_shrink
from harness.commands.fuzz_loop import MAX_SHRINKS, SHRINK_RUNS, Fuzzer
from harness.commands.fuzz_space import space_for
from harness.engine import scheduler
from harness.plan import machine
from harness.record.events import CaseEnded, CaseStarted
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder
from tests.harness.record.infos import run_info

CPU = dataclasses.replace(machine.planned_for("cpu"), planned=False)
SPACE = space_for(CPU, "torch_loop")
BUDGET, CASE = 30.0, 1.0  # seconds


class TimedEngine:
    """Every case takes CASE seconds of its clock; cases with three experts or more fail."""

    def __init__(self):
        self.now = 1000.0
        self.ended = []  # ids

    def run(self, plan, options, pool):
        self.options = options
        for case in plan.cases:
            yield CaseStarted(time=self.now, case_id=case.id, gang=1)
            if self.now + CASE > options.until:  # as the engine does: no result
                self.now = options.until
                return
            self.now += CASE
            self.ended.append(case.id)
            verdict = Verdict.FAILED if case.top_k >= 3 else Verdict.PASSED
            yield CaseEnded(
                time=self.now, gang=1, result=CaseResult(case_id=case.id, verdict=verdict)
            )


@pytest.fixture
def engine(monkeypatch):
    engine = TimedEngine()
    clock = SimpleNamespace(monotonic=lambda: engine.now, time=time.time)
    for module in (fuzz_loop, fuzz_shrink):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(scheduler, "run", engine.run)
    return engine


@pytest.fixture
def fuzzer(engine, tmp_path):
    with RunFolder.create(tmp_path / "run", run_info()) as folder:
        yield Fuzzer(space=SPACE, seed=2, folder=folder, pool=None)


def test_the_budget_is_kept_although_it_shrinks(engine, fuzzer, capsys):
    began = engine.now
    fuzzer.go(began + BUDGET, None, stop_at_first=False)
    assert engine.now - began <= BUDGET + CASE
    assert any(result.verdict is Verdict.FAILED for result in fuzzer.results.values())
    assert fuzzer.smallest  # shrunk, within the budget
    assert len(engine.ended) > len(fuzzer.results)  # by runs of cases alone
    assert "it fails alone, in a fresh gang:" in capsys.readouterr().out


def test_a_budget_leaves_time_to_shrink_a_failure(engine, fuzzer):
    """Cases of a batch stop early once one has failed that is to be shrunk."""
    began = engine.now
    fuzzer.go(began + BUDGET, None, stop_at_first=True)
    seconds = CASE * (len(engine.ended) - len(fuzzer.results))
    assert seconds >= fuzz_loop.RESERVE * BUDGET - MAX_SHRINKS * CASE


def test_few_failures_are_shrunk_and_each_by_few_runs(engine, fuzzer):
    began = engine.now
    fuzzer.go(began + 3600, 64, stop_at_first=False)
    failures = [r for r in fuzzer.results.values() if r.verdict is Verdict.FAILED]
    assert len(failures) > MAX_SHRINKS == len(fuzzer.smallest)
    assert len(engine.ended) - len(fuzzer.results) <= MAX_SHRINKS * (SHRINK_RUNS + 1)
    for result in fuzzer.smallest:
        assert "-topk:3-" in result.case_id


def test_a_number_of_cases_is_never_exceeded(engine, fuzzer):
    fuzzer.go(engine.now + 3600, 70, stop_at_first=False)
    assert len(fuzzer.results) == 70


@pytest.mark.parametrize("undeclared", [True, False])
def test_ranks_are_told_whether_rows_are_taken_to_state_nothing(engine, fuzzer, undeclared):
    fuzzer.undeclared = undeclared
    fuzzer.go(engine.now + 3600, 3, stop_at_first=False)
    assert engine.options.rank_options["undeclared"] is undeclared
