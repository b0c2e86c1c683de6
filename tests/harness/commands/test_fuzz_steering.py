"""Steering: more pairs for the same number of cases, none refused, the same for the same seed."""

from __future__ import annotations

import dataclasses

import pytest

from harness.commands.fuzz_coverage import PairCoverage
from harness.commands.fuzz_shrink import batch
from harness.commands.fuzz_space import space_for
from harness.commands.fuzz_steering import PLAIN, Steering
from harness.plan import machine
from harness.plan.plan import make_plan

CPU = dataclasses.replace(machine.planned_for("cpu"), planned=False)
SPACE = space_for(CPU)


@pytest.fixture(scope="module")
def steering():
    return Steering(SPACE, 0)


@pytest.fixture(scope="module")
def batches(steering):
    return [steering.batch(number) for number in range(2)]


def test_the_same_number_of_cases_has_more_pairs(batches):
    steered, drawn = PairCoverage(SPACE), PairCoverage(SPACE)
    for number, cases in enumerate(batches):
        for case, as_drawn in zip(cases, batch(SPACE, 0, number), strict=True):
            steered.add_pairs(case)
            drawn.add_pairs(as_drawn)
    assert len(steered.pairs) > 1.2 * len(drawn.pairs)


def test_steered_cases_run_and_stay_small(batches):
    cases = [case for cases in batches for case in cases]
    assert make_plan(cases, CPU).refused == ()
    assert all(SPACE.holds(case) for case in cases)


def test_some_cases_stay_as_they_were_drawn(steering, batches):
    unchanged = [steering.drawn[case] == case for case in batches[0]]
    assert all(unchanged[::PLAIN])
    assert sum(unchanged) < len(unchanged) / 2


def test_the_same_seed_steers_to_the_same_cases(batches):
    assert Steering(SPACE, 0).batch(0) == batches[0]
