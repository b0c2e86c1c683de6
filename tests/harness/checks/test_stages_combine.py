"""The weighted sum: terms that a member hands out weighted, or not, and one wrong sum."""

from __future__ import annotations

import pytest

from harness.record.result import Verdict
from tests.harness.checks import stage_faults, stage_roundings
from tests.harness.checks.stage_faults import case, one_more, run, stages_of

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("GateStep", "WeightInside", "WeightedOnly", "WeightedByRounded")


@pytest.mark.parametrize("name", NAMES)
def test_one_wrong_sum_is_found_whatever_is_handed_out(name):
    def plant(patch):
        member = getattr(stage_roundings, name)
        right = member.apply
        patch.setattr(member, "apply", lambda self, x, routing: one_more(right(self, x, routing)))

    of = case(m=16, experts=f"{stage_roundings.HERE}:{name}").id
    assert run(stage_faults.nothing, of).verdict is Verdict.PASSED
    assert stages_of(run(plant, of)) == ["combine"]


def test_a_wrong_weighted_sum_of_the_real_stack_is_found():
    found = run(stage_faults.weighted_sum, case(experts="triton").id)
    assert "combine" in stages_of(found)
