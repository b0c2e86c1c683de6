"""A scene: some rows of a call, with all that a mistake's output is computed from."""

from __future__ import annotations

import pytest
import torch

from tests.harness.mutants.samples import apart, case, scene


@pytest.mark.parametrize("fields", [{}, {"shared_experts": 1}, {"tp_size": 2, "top_k": 3}])
def test_without_a_change_the_total_is_the_reference(fields):
    right = scene(case(**fields))
    assert apart(right.total(), right.answer.out) < 1e-5


def test_each_term_of_the_total_can_be_replaced():
    right = scene(case(shared_experts=1))
    shared, parts = right.answer.shared, right.answer.parts
    routed = right.answer.out - shared
    assert apart(right.total(shared=torch.zeros_like(shared)), routed) < 1e-5
    assert apart(right.total(weights=2 * right.topk_weights), 2 * routed + shared) < 1e-5
    assert apart(right.total(parts=-parts), shared - routed) < 1e-5


def test_rows_of_a_long_call_are_a_sample_of_it():
    right = scene(case(m=40))
    assert right.tokens == len(right.all_rows) == 40
    assert len(right.rows) == len(right.x) == len(right.logits) == len(right.actual) == 16
    assert torch.equal(right.all_rows[right.rows], right.answer.out)
    assert right.answer.parts.shape[1] == 16


def test_the_first_rows_of_a_scene_are_a_scene():
    right = scene(case(m=40, shared_experts=1))
    part = right.first(3)
    for name in ("rows", "x", "logits", "topk_ids", "topk_weights", "actual"):
        assert torch.equal(getattr(part, name), getattr(right, name)[:3])
    assert apart(part.total(), right.answer.out[:3]) < 1e-5
    assert (part.tokens, len(part.all_rows)) == (40, 40)
    assert part.memo is right.memo  # what one part has computed the others need not
    assert len(right.first(99).rows) == 16
