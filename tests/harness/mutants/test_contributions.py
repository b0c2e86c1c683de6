"""What each rank and slot adds, and which of them is to blame."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.mutants import NotApplicable, named
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
