"""Adapters left out, exchanged or applied in part: the output under each of these mistakes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.mutants import FEW, NotApplicable, named
from harness.mutants.recompute import (
    redo,
)
from harness.mutants.self_check import prove
from harness.record.proof import Outcome
from moe.reference.adapters import AdapterTruth
from tests.harness.mutants.real_layer import SAME
from tests.harness.mutants.samples import apart, assert_no_mistake, case, scene

LORA = case(adapters=2, m=8)


def with_other(here, change=None, numbers=None):
    """[FEW, K]: the reference's output with the matrices or the choice of adapters changed."""
    few, truth = here.first(FEW), here.reference.adapters
    reference = here.reference.remade(type(here.reference))
    if change is not None:
        reference.adapters = AdapterTruth(of=lambda a, e: change(truth, a, e), scale=truth.scale)
    chosen = few.adapters if numbers is None else numbers(few.adapters)
    return reference(few.x, few.topk_ids, few.topk_weights, adapters=chosen, like=few.answer).out


def half(keep):
    """Zeros in B of one half."""

    def change(truth, a, e):
        a13, b13, a2, b2 = truth.of(a, e)
        b13 = b13.clone()
        b13[1 - keep] = 0
        return a13, b13, a2, b2

    return change


def times(factor):
    def change(truth, a, e):
        a13, b13, a2, b2 = truth.of(a, e)
        by = factor(float(truth.scale[a]))
        return a13, b13 * by, a2, b2 * by

    return change


MATRICES = {
    "lora_scale_missing": times(lambda scale: 1 / scale),
    "lora_scale_twice": times(lambda scale: scale),
    "lora_first_missing": lambda t, a, e: (t.of(a, e)[0], t.of(a, e)[1] * 0, *t.of(a, e)[2:]),
    "lora_second_missing": lambda t, a, e: (*t.of(a, e)[:3], t.of(a, e)[3] * 0),
    "lora_gate_only": half(0),
    "lora_up_only": half(1),
    "lora_halves_swapped": lambda t, a, e: (
        *(m.flip(0) for m in t.of(a, e)[:2]),
        *t.of(a, e)[2:],
    ),
    "lora_of_next_expert": lambda t, a, e: t.of(a, (e + 1) % 4),
}
CHOICES = {
    "lora_missing": lambda own: torch.full_like(own, -1),
    "lora_of_next_adapter": lambda own: torch.where(own < 0, own, 1 - own),
    "lora_none_as_last": lambda own: torch.where(own < 0, 1, own),
}


def test_the_steps_give_the_answer():
    for one in (LORA, case(adapters=2, tp_size=2, quant="fp8_block"), case(adapters=1, latent=96)):
        here = scene(one)
        assert apart(redo(here), here.answer.out[:FEW]) < SAME
        assert apart(here.total(), here.answer.out) < SAME


def test_the_output_is_that_of_other_matrices_or_another_choice():
    here = scene(LORA)
    for name, change in MATRICES.items():
        out = named(name).compute(here)
        assert apart(out, with_other(here, change)) < SAME, name
        assert apart(out, here.answer.out[:FEW]) > 0.02, name
    for name, numbers in CHOICES.items():
        out = named(name).compute(here)
        assert apart(out, with_other(here, numbers=numbers)) < SAME, name
        assert apart(out, here.answer.out[:FEW]) > 0.02, name


def test_the_neighbour_is_the_token_before_over_all_of_the_rank_s_tokens():
    here = scene(case(adapters=2, m=8, dp_size=2, use_ep=True), rank=1)
    wanted = with_other(here, numbers=lambda own: _before(here)[:FEW])
    assert apart(named("lora_of_neighbour").compute(here), wanted) < SAME


def _before(here):
    from harness.fixtures import tensors

    whole = tensors.tokens(here.case, 1, 8, here.x.device, here.start)
    return whole.adapters.roll(1)[here.rows]


def test_where_there_is_no_mistake():
    assert_no_mistake("lora_missing", case(), "no adapters")
    assert_no_mistake("lora_of_next_adapter", case(adapters=1), "a single adapter")
    plain = case(adapters=1, activation="silu_no_mul")
    assert_no_mistake("lora_gate_only", plain, "is not gated")
    here = scene(LORA)
    none = dataclasses.replace(here, adapters=torch.full_like(here.adapters, -1))
    with pytest.raises(NotApplicable, match="these tokens have no adapter"):
        named("lora_scale_missing").compute(none)


def test_the_self_check_rejects_them_on_rows_that_have_an_adapter():
    here = scene(LORA)
    outcome = {proof.name: proof.outcome for proof in prove(here)}
    assert outcome["lora_missing"] is Outcome.CAUGHT
    assert outcome["lora_second_missing"] is Outcome.CAUGHT
