"""A matrix of another expert or rank gives what the real stack gives with it."""

from __future__ import annotations

import pytest
import torch

from harness.mutants import FEW, named
from harness.mutants.recompute import (
    redo,
)
from harness.mutants.steps import (
    Steps,
)
from tests.harness.mutants.real_layer import SAME, assert_foretold, real, scaled
from tests.harness.mutants.samples import apart, assert_no_mistake, case, scene


@pytest.mark.parametrize(
    ("name", "one", "step"),
    [
        ("w2_shard_of_next_rank", case(tp_size=2), 1),
        ("w2_shard_of_next_rank", case(dp_size=2, tp_size=2), 1),
        ("w2_shard_of_rank_before", case(tp_size=4), -1),
    ],
)
def test_each_rank_s_columns_meet_another_rank_s(name, one, step):
    here = scene(one)
    width = one.n // one.world_size

    def moved(w2):
        return torch.cat([w2[:, step * width :], w2[:, : step * width]], dim=1)

    wanted = redo(here, Steps(w2=lambda _, e: moved(e.w2)))
    assert apart(named(name).compute(here), wanted) < SAME
    out, _ = real(case(), change_weights=lambda w: w.replace(w2=torch.stack([*map(moved, w.w2)])))
    assert one.layout != case().layout
    assert apart(named(name).compute(here), out[:FEW]) < 0.004


IN_WEIGHTS = [
    ("w13_of_expert_before", "none", scaled("w13", lambda w: w.roll(1, 0))),
    ("w13_of_next_expert", "none", scaled("w13", lambda w: w.roll(-1, 0))),
    ("w2_of_expert_before", "none", scaled("w2", lambda w: w.roll(1, 0))),
    ("w2_of_next_expert", "none", scaled("w2", lambda w: w.roll(-1, 0))),
]


@pytest.mark.parametrize(("name", "quant", "change"), IN_WEIGHTS)
def test_a_mistake_in_the_weights_is_foretold(name, quant, change):
    assert_foretold(name, case(quant=quant), change_weights=change)


NO_MISTAKE = [
    ("w2_of_expert_before", case(num_experts=2), "either way"),
    ("w13_of_next_expert", case(dp_size=4, use_ep=True), "no rank has more than one expert"),
    ("w2_shard_of_next_rank", case(tp_size=2, use_ep=True), "every rank has whole experts"),
    ("w2_shard_of_next_rank", case(tp_size=2, n=255), "of different sizes"),
    ("w2_shard_of_rank_before", case(tp_size=2), "either way"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)
