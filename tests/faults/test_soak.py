"""The soak in small: it ends without complaint, and complains of what it must."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks import soak
from harness.record.result import Verdict

CASES, EVERY = 24, 6  # one fault of each kind


@pytest.fixture(scope="module")
def ran():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(soak.__file__.rpartition("/")[0])  # where ranks find the executor
        return soak.soak(CASES, 2, EVERY)


def test_every_case_has_its_verdict_and_each_crash_costs_one_gang(ran):
    assert ran.complaints(CASES, EVERY) == []
    assert len(ran.memory) == 4
    faults = [v for v in ran.verdicts.values() if v is not Verdict.PASSED]
    assert faults == list(soak.EXPECTED)
    assert ran.gangs == 4, "three are replaced; the hang is the last case"


def test_a_lost_case_a_wrong_verdict_and_growth_are_complaints(ran):
    verdicts = {**ran.verdicts, 5: Verdict.PASSED}
    del verdicts[2]
    memory = [ran.memory[0], ran.memory[0] + soak.GROWTH + (1 << 20)]
    wrong = dataclasses.replace(ran, verdicts=verdicts, memory=memory)
    assert wrong.complaints(CASES, EVERY) == [
        "case 2: lost, expected passed",
        "case 5: passed, expected crashed",
        "the controller grew by 9 MiB after the first quarter",
    ]
