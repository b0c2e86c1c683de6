"""The few rows that are worked out again are the reference's when no step is changed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.mutants import FEW
from harness.mutants.recompute import (
    elsewhere,
    redo,
    redo_parts,
    shared_mlp,
)
from harness.mutants.steps import (
    Steps,
)
from moe.quant import QUANT
from tests.harness.mutants.real_layer import SAME
from tests.harness.mutants.samples import apart, case, scene

LAYOUTS = (
    {},
    {"tp_size": 2},
    {"dp_size": 2},
    {"dp_size": 2, "use_ep": True},
    {"tp_size": 2, "use_ep": True},
    {"dp_size": 2, "tp_size": 2},
    {"dp_size": 2, "tp_size": 2, "use_ep": True, "sequence_parallel": True},
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant", QUANT.rows)
def test_redone_rightly_is_the_right_answer(quant, layout):
    for experts in ("torch_loop", "triton"):  # they declare other numerics
        small = {"m": 3, "k": 128, "num_experts": 2, "top_k": 2}
        here = scene(case(quant=quant, experts=experts, shared_experts=1, **small, **layout))
        few = here.first(FEW)
        assert apart(redo_parts(few), few.answer.parts) < SAME
        assert apart(redo(here), few.answer.out) < SAME


def test_the_right_first_product_is_computed_once_for_all_mistakes():
    right = dataclasses.replace(scene(case()), memo={})
    redo(right)
    made = dict(right.memo)
    redo(right, Steps(second=lambda _, h, __: 2 * h))
    assert right.memo.keys() == made.keys()
    assert all(right.memo[key] is value for key, value in made.items())


def test_a_step_before_the_activation_does_not_use_the_right_product():
    right = scene(case())
    assert (
        apart(redo(right, Steps(inputs=lambda s, rows, _: 0 * s.x[rows].float())), redo(right)) == 1
    )
    assert apart(redo(right, Steps(product=lambda _, x, w: 0 * (x @ w.mT))), redo(right)) == 1
    assert Steps().starts_right()
    assert not Steps(w13=lambda _, e: e.w13).starts_right()


def test_shards_of_different_sizes_are_computed_one_after_another():
    uneven = scene(case(tp_size=3)).first(FEW)
    assert apart(redo_parts(uneven), uneven.answer.parts) < SAME


def test_only_as_many_rows_are_redone_as_the_scene_asks_for():
    one_row = dataclasses.replace(scene(case()), few=1)
    assert redo(one_row).shape == (1, 256)
    assert apart(redo(one_row), redo(scene(case()))[:1]) < SAME


def test_products_of_all_experts_are_summed_by_one_step():
    """Their terms have a dimension of their own, for a mistake in the order of additions."""
    right = scene(case(tp_size=2))
    halves = Steps(
        product=lambda _, x, w: torch.stack([x @ w.mT / 4, x @ w.mT * 3 / 4], dim=-2),
        total=lambda _, products: products.sum(dim=-2),
    )
    assert apart(redo(right, halves), redo(right)) < SAME


def test_slots_without_an_expert_add_nothing():
    right = scene(case()).first(FEW)
    ids = right.topk_ids.clone()
    ids[:, 1] = -1
    parts = redo_parts(right, ids=ids)
    assert not parts[:, :, 1].any()
    assert apart(parts[:, :, 0], redo_parts(right)[:, :, 0]) < SAME


def test_columns_of_the_shared_experts_add_up():
    right = scene(case(shared_experts=1))
    halves = [shared_mlp(right, slice(0, 100)), shared_mlp(right, slice(100, None))]
    assert apart(shared_mlp(right), right.answer.shared) < SAME
    assert apart(sum(halves), shared_mlp(right)) < SAME


def test_of_another_scene_only_the_matrices_stay():
    right = dataclasses.replace(scene(case()), memo={})
    redo(right)
    other = elsewhere(right, x=right.x * 2)
    assert {key[0] for key in right.memo} > {key[0] for key in other.memo} == {"matrices"}
    assert apart(redo(other), redo(right)) > 0.1
