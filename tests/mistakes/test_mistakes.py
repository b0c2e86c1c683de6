"""Mistakes planted in the real stack are caught by the real runner, and most of them named.

`pytest -rP tests/mistakes` prints the table, with a fixed tolerance's verdicts beside ours.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from harness.plan.machine import planned_for
from harness.plan.plan import make_plan
from harness.record.result import Verdict
from tests.mistakes.mistake import MISTAKES, NO_CAUSE, ON_GPU
from tests.mistakes.show_mistakes import MistakeResult, run, table

pytestmark = pytest.mark.timeout(1800)  # the first test of a module's rows waits for all of them


@pytest.fixture(scope="module")
def rows() -> dict[str, MistakeResult]:
    return {row.mistake.name: row for row in run(MISTAKES)}


def test_there_are_enough_of_them_and_all_are_different():
    assert len({m.name for m in MISTAKES}) == len(MISTAKES) >= 40
    assert len({m.kind for m in MISTAKES}) >= 30
    assert len({m.case.id for m in MISTAKES}) == len(MISTAKES)


def test_the_same_cases_pass_without_a_mistake():
    """So it is the mistakes that are caught. A case's seed names its mistake, and 0 none."""
    clean = {m.case.replace(seed=0): m for m in MISTAKES}
    controls = [dataclasses.replace(m, case=case) for case, m in clean.items()]
    right = (Verdict.PASSED, Verdict.VACUOUS)
    found = [row.result for row in run(controls)]
    assert [(r.case_id, r.messages) for r in found if r.verdict not in right] == []


def test_the_faults_between_ranks_are_planted_with_the_causes_of_the_docs():
    by_name = {m.name: m for m in MISTAKES}
    text = (Path(__file__).parents[2] / "docs" / "ranks.md").read_text()
    lines = text.partition("## Planted faults")[2].splitlines()
    cells = [line.split("|")[1:5] for line in lines if line.startswith("| ") and "`" in line]
    assert len(cells) >= 14
    for fault, planted, _, named in cells:
        rows = [by_name[name] for name in re.findall(r"`(\w+)`", planted)]
        causes = " ".join(cause for row in rows for cause in row.causes)
        assert rows, fault
        assert [n for n in re.findall(r"`([\w ]+)`", named) if n not in causes] == [], fault


def test_what_needs_a_gpu_is_refused_elsewhere_with_its_reason():
    plan = make_plan([m.case for m in ON_GPU], planned_for("cpu"), time_limit=60.0)
    codes = [refusal.reason.code for refusal in plan.refused]
    assert codes == ["call_mode_needs_device"] * len(ON_GPU)
    assert not {m.name for m in ON_GPU} & {m.name for m in MISTAKES}


@pytest.mark.parametrize("name", [m.name for m in MISTAKES])
def test_a_planted_mistake_is_caught(name, rows):
    assert rows[name].caught, rows[name].result


def test_the_cause_is_named_right_for_nearly_all(rows):
    print(table(list(rows.values())))
    wrong = [(row.mistake.name, row.told) for row in rows.values() if not row.named_right]
    known = [row for row in rows.values() if row.mistake.causes != (NO_CAUSE,)]
    assert len(known) >= 0.9 * len(rows)
    assert len(wrong) <= 0.05 * len(rows), wrong


def test_a_fixed_tolerance_lets_many_pass(rows):
    """At the size of the outputs that it is used on; shown so that nobody takes it up again."""
    passes = [r for r in rows.values() if r.tolerated("its") == "passes"]
    assert len(passes) >= 0.25 * len(rows)
    assert all(row.result.verdict is not Verdict.PASSED for row in passes)
