"""The split of a plan into shards: complete, balanced, and the same everywhere."""

import pytest

from harness.errors import UsageError
from harness.matrix.case import MoETestConfig
from harness.plan import machine
from harness.plan.durations import Durations
from harness.plan.plan import make_plan
from harness.plan.shards import parse, shard, split

BASE = MoETestConfig.from_id("m:2-n:256-k:128-e:8-topk:2-experts:torch_loop")
CASES = [BASE.replace(seed=seed, tp_size=tp) for seed in range(30) for tp in (1, 2)]
PLAN = make_plan(CASES, machine.planned_for("cpu"))


def loads(durations, count, parts):
    by_id = {case.id: case for case in PLAN.cases}
    result = []
    for part in parts:
        worlds = {by_id[i].world_size for i in part}
        seconds = sum(durations.of(by_id[i]) for i in part)
        result.append(seconds + sum(map(durations.start, worlds)))
    return result


def test_each_case_is_in_one_shard_and_shards_take_as_long():
    uneven = Durations(
        cases={case.id: 1.0 + (case.seed % 7) for case in CASES}, starts={1: 2, 2: 9}
    )
    for count in (1, 2, 3, 7, 60):
        parts = split(PLAN, count, uneven)
        assert sorted(i for part in parts for i in part) == sorted(case.id for case in PLAN.cases)
        assert all(parts)
        if count < 10:
            times = loads(uneven, count, parts)
            assert max(times) <= 1.35 * sum(times) / count


def test_a_gang_is_not_started_in_every_shard_if_its_start_costs_more_than_it_saves():
    parts = split(PLAN, 2, Durations(cases={case.id: 0.1 for case in CASES}, starts={1: 50, 2: 50}))
    worlds = [{MoETestConfig.from_id(i).world_size for i in part} for part in parts]
    assert worlds in ([{1}, {2}], [{2}, {1}])


def test_a_shard_says_what_it_is_and_other_durations_split_otherwise():
    (one, of_one), (two, of_two) = (shard(PLAN, i, 2, Durations()) for i in (1, 2))
    assert of_one.suite_hash == of_two.suite_hash
    assert of_one.split_hash == of_two.split_hash
    assert {c.id for c in one.cases}.isdisjoint(c.id for c in two.cases)
    slow = Durations(cases={CASES[0].id: 500.0})
    assert shard(PLAN, 1, 2, slow)[1].split_hash != of_one.split_hash
    assert shard(PLAN, 1, 2, slow)[1].suite_hash == of_one.suite_hash


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"BUILDKITE_PARALLEL_JOB": "0", "BUILDKITE_PARALLEL_JOB_COUNT": "4"}, (1, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "12",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "10",
            },
            (3, 3),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            (3, 3),
        ),
    ],
)
def test_auto_reads_the_environment(environment, expected):
    assert parse("auto", environment) == expected


def test_an_environment_that_makes_no_sense():
    for environment, text in (
        ({"BUILDKITE_PARALLEL_JOB": "1"}, "BUILDKITE_PARALLEL_JOB_COUNT is not set"),
        ({"BUILDKITE_PARALLEL_JOB": "x"}, "must be a whole number, not 'x'"),
        (
            {"BUILDKITE_PARALLEL_JOB": "4", "BUILDKITE_PARALLEL_JOB_COUNT": "4"},
            "the environment says shard 5 of 4",
        ),
    ):
        with pytest.raises(UsageError, match=text):
            parse("auto", environment)
