"""Projections left out, taken twice, exchanged or cut short, and shared experts that get them."""

from __future__ import annotations

import pytest
import torch

from harness.mutants import FEW, named
from harness.mutants.recompute import (
    redo,
)
from harness.mutants.self_check import prove
from harness.record.proof import Outcome
from moe.reference.latent import LatentTruth
from tests.harness.mutants.real_layer import SAME
from tests.harness.mutants.samples import apart, assert_no_mistake, case, scene

LATENT = case(latent=96)
SQUARE = case(latent=256, shared_experts=1)


def with_other(one, change):
    """[FEW, K]: the reference's output with projections made by change(down, up)."""
    here = scene(one)
    truth = here.reference.latent
    down, up = change(truth.down.float(), truth.up.float())
    other = here.reference.with_latent(LatentTruth(down=down, up=up))
    few = here.first(FEW)
    return here, other(few.x, few.topk_ids, few.topk_weights).out


def test_the_steps_give_the_answer():
    for one in (LATENT, SQUARE, case(latent=160, quant="int8_channel", expert_bias=True)):
        here = scene(one)
        assert apart(redo(here), here.answer.out[:FEW]) < SAME
        assert apart(here.total(), here.answer.out) < SAME


@pytest.mark.parametrize(
    ("name", "one", "change"),
    [
        ("latent_not_entered", LATENT, lambda d, u: (torch.eye(*d.shape), u)),
        ("latent_not_left", LATENT, lambda d, u: (d, torch.eye(*u.shape))),
        ("latent_tied", LATENT, lambda d, u: (d, d.T)),
        ("latent_swapped", LATENT, lambda d, u: (u.T, d.T)),
        ("latent_entered_twice", SQUARE, lambda d, u: (d @ d, u)),
        ("latent_left_twice", SQUARE, lambda d, u: (d, u @ u)),
        (
            "latent_last_block_missing",
            LATENT,
            lambda d, u: (torch.cat([d[:, :128], torch.zeros(96, 128)], dim=1), u),
        ),
    ],
)
def test_the_output_is_that_of_other_projections(name, one, change):
    here, wanted = with_other(one, change)
    out = named(name).compute(here)
    assert apart(out, wanted) < 5 * SAME
    assert apart(out, here.answer.out[:FEW]) > 0.1


def test_shared_experts_may_be_given_what_is_the_routed_experts():
    here = scene(SQUARE)
    projected = here.reference.entered(here.x).to(here.x.dtype).float()
    part = here.reference.shared(projected).out
    wanted = here.answer.out - here.answer.shared + part
    assert apart(named("latent_for_shared").compute(here), wanted) < SAME
    truth = here.reference.latent
    moved = here.answer.out - here.answer.shared + truth.leave(here.answer.shared)
    assert apart(named("shared_left_as_latent").compute(here), moved) < SAME


def test_where_there_is_no_mistake():
    assert_no_mistake("latent_tied", case(), "work on the hidden size itself")
    assert_no_mistake("latent_left_twice", LATENT, "is not the hidden size")
    assert_no_mistake("latent_for_shared", case(latent=256), "no shared experts")
    assert_no_mistake("latent_last_block_missing", case(latent=96, k=128), "one block of 128")


def test_the_self_check_rejects_them():
    outcome = {proof.name: proof.outcome for proof in prove(scene(LATENT))}
    assert outcome["latent_not_entered"] is Outcome.CAUGHT
    assert outcome["latent_not_left"] is Outcome.CAUGHT
