"""How a job's cases are split among gangs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from harness.engine.job_run import BATCH, job_runs
from harness.engine.run_options import RunOptions
from harness.engine.slots import Slots
from tests.harness.engine.engine_faults import case


def split(cases, slots=4):
    job = SimpleNamespace(
        world_size=1, device="cpu", transport="gloo", cases=tuple(cases), memory_share=0.0
    )
    runs = job_runs(job, RunOptions(log_dir=Path("logs")), Slots(slots, 0))
    return [list(run.queue) for run in runs], list(runs[0].backlog) if runs else []


def test_every_case_is_in_one_batch_of_neighbours():
    cases = [case("none", world=1, m=m) for m in range(1, 100)]
    queues, backlog = split(cases)
    assert len(queues) == 4
    batches = [*queues, *map(list, backlog)]
    assert sorted(c.m for batch in batches for c in batch) == [c.m for c in cases]
    assert max(map(len, batches)) == BATCH
    assert all(batch == cases[batch[0].m - 1 :][: len(batch)] for batch in batches)


def test_few_cases_are_spread_over_all_gangs():
    cases = [case("none", world=1, m=m) for m in range(1, 9)]
    queues, backlog = split(cases)
    assert [len(queue) for queue in queues] == [1] * 4
    assert [len(batch) for batch in backlog] == [1] * 4
    assert split(cases[:2])[0] == [[cases[1]], [cases[0]]]
    assert split([]) == ([], [])


def test_the_longest_batch_comes_first():
    cases = [case("none", world=1, m=m) for m in (1, 2, 4096, 3)]
    queues, _ = split(cases)
    assert queues[0] == [cases[2]]


def test_a_batch_that_compiles_comes_before_one_of_larger_cases():
    plain = [case("none", world=1, m=m) for m in (1, 64, 3, 4)]
    compiled = case("none", world=1, m=2).replace(call="compile")
    queues, _ = split([*plain, compiled])
    assert queues[0] == [compiled]


def test_one_gang_runs_all_cases_in_the_plans_order():
    cases = [case("none", world=1, m=m) for m in (1, 4096, 2)]
    assert split(cases, slots=1) == ([cases], [])
