"""Steps as the reference does them: their inputs, and what stays of them for other tokens."""

from __future__ import annotations

import dataclasses

import torch

from harness.mutants.recompute import redo
from harness.mutants.steps import (
    elsewhere,
    expert_input,
    input_scale,
    quantized_input,
    shared_mlp,
)
from tests.harness.mutants.real_layer import SAME
from tests.harness.mutants.samples import apart, case, scene


def test_the_experts_input_is_projected_and_quantized_row_by_row():
    here = scene(case(quant="int8_channel", latent=96))
    x = expert_input(here)
    assert torch.equal(x, here.reference.entered(here.x))
    assert torch.equal(expert_input(here.first(2)), x[:2])
    assert input_scale(here).shape == (len(x), 1)
    assert 0 < apart(quantized_input(here), x) < 0.02
    plain = scene(case())
    assert torch.equal(expert_input(plain), plain.x.float())


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
