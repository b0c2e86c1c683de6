"""What each rank and slot adds, and which of them is to blame."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.mutants import NotApplicable, named
from harness.mutants.contributions import (
    added_distance,
    blame,
    blamed,
    by_rank,
    by_slot,
    parts_of,
    residual,
)
from tests.harness.mutants.samples import apart, case, scene, seen


def test_nan_in_what_was_seen_stops_no_question():
    right = scene(case(dp_size=2, use_ep=True, shared_experts=1))
    broken = seen(right, torch.full_like(right.answer.out, torch.nan))
    for name in ("expert_dropped", "rank_missing", "swapped", "expert_from_neighbour"):
        assert named(name).compute(broken).isfinite().all()


def test_ranks_and_experts_that_add_nothing_are_no_culprits():
    right = scene(case(dp_size=4, use_ep=True, m=1))
    idle = ((right.answer.parts != 0).flatten(1).sum(dim=1) == 0).sum()
    assert idle >= 2  # one token goes to two experts
    assert apart(named("rank_missing").compute(right), right.answer.out) > 0.005
    none = dataclasses.replace(right.answer, parts=torch.zeros_like(right.answer.parts))
    nothing = dataclasses.replace(right, answer=none, memo={})
    with pytest.raises(NotApplicable, match="no rank adds anything"):
        named("rank_missing").compute(nothing)
    with pytest.raises(NotApplicable, match="no expert adds anything"):
        named("expert_dropped").compute(nothing)


@pytest.mark.parametrize("fields", [{}, {"tp_size": 2}, {"dp_size": 2, "use_ep": True}])
def test_slots_and_ranks_add_up_to_the_answer(fields):
    right = scene(case(shared_experts=1, **fields))
    routed = right.answer.out - right.answer.shared
    assert by_slot(right).shape == (*right.topk_ids.shape, right.case.k)
    assert by_rank(right).shape == (right.case.world_size, *routed.shape)
    assert apart(by_slot(right).sum(dim=1), routed) < 1e-5
    assert apart(by_rank(right).sum(dim=0), routed) < 1e-5


def test_only_slots_of_a_rank_s_experts_add_to_its_share():
    right = scene(case(dp_size=2, use_ep=True))
    held = torch.stack([right.topk_ids < 2, right.topk_ids >= 2])  # ranks hold experts 0-1, 2-3
    assert torch.equal((parts_of(right) != 0).any(dim=-1), held)


def test_the_residual_is_the_error_and_zero_where_the_output_is_nan():
    right = scene(case())
    actual = right.answer.out.clone()
    actual[2] += 1
    actual[4, 7] = torch.nan
    left = residual(seen(right, actual))
    assert apart(left[2], torch.ones_like(left[2])) < 0.01
    assert float(left[4, 7]) == 0
    assert float(left[[0, 1, 3, 5]].abs().max()) < 0.01 * float(right.answer.out.abs().max())


def test_the_change_that_explains_the_output_best_adds_least_to_the_distance():
    off = torch.tensor([3.0, -1.0])
    changes = torch.tensor([[3.0, -1.0], [2.0, 0.0], [-3.0, 1.0], [0.0, 0.0]])
    distance = (off - changes).square().sum(dim=1)
    assert torch.equal(added_distance(off, changes), distance - off.square().sum())
    assert int(added_distance(off, changes).argmin()) == 0


def test_the_culprit_is_forgotten_once_it_is_named():
    right = seen(scene(case()), scene(case()).answer.out)
    assert blamed(right) == ""
    blame(right, "expert 3")
    blame(right, "expert 1")
    assert (blamed(right), blamed(right)) == ("expert 1", "")
