"""Mistakes in the experts' biases give what the real stack gives with them."""

from __future__ import annotations

import pytest
import torch

from harness.mutants import named
from harness.mutants.contributions import blamed
from harness.mutants.self_check import rejected
from tests.harness.mutants.real_layer import assert_foretold, real, scaled
from tests.harness.mutants.samples import apart, assert_no_mistake, case, scene, seen

BIASED = case(expert_bias=True)

IN_WEIGHTS = [
    ("first_bias_missing", scaled("b13", torch.zeros_like)),
    ("second_bias_missing", scaled("b2", torch.zeros_like)),
    ("bias_halves_swapped", scaled("b13", lambda b: b.roll(b.shape[1] // 2, 1))),
    ("bias_interleaved", scaled("b13", lambda b: torch.cat([b[:, ::2], b[:, 1::2]], dim=1))),
    ("biases_of_next_expert", lambda w: w.replace(b13=w.b13.roll(-1, 0), b2=w.b2.roll(-1, 0))),
]


@pytest.mark.parametrize("quant", ["none", "fp8_block"])
@pytest.mark.parametrize(("name", "change"), IN_WEIGHTS)
def test_a_mistake_in_the_biases_is_foretold(name, change, quant):
    assert_foretold(name, BIASED.replace(quant=quant), change_weights=change)


def test_the_expert_whose_biases_are_lost_is_the_one_that_is_named():
    def without(w):
        b13, b2 = w.b13.clone(), w.b2.clone()
        b13[2], b2[2] = 0, 0
        return w.replace(b13=b13, b2=b2)

    out, here = real(BIASED, change_weights=without)
    wrong = seen(here, out)
    foretold = named("expert_without_biases").compute(wrong)
    assert apart(out[: len(foretold)], foretold) < 0.004
    assert blamed(wrong) == "expert 2"


def test_each_rank_s_second_bias_comes_on_top_of_the_first_one_s():
    right = scene(BIASED.replace(tp_size=2))
    wrong = named("second_bias_on_each_rank").compute(right)
    b2 = torch.stack([right.reference.biases(e)[1] for e in range(4)])
    weighted = right.topk_weights[:, :, None] * b2[right.topk_ids.long()]
    wanted = (right.answer.out + weighted.sum(dim=1))[: len(wrong)]
    assert apart(wrong, wanted) < 1e-4


def test_an_unweighted_second_bias_is_added_whole():
    right = scene(BIASED)
    wrong = named("second_bias_unweighted").compute(right)
    b2 = torch.stack([right.reference.biases(e)[1] for e in range(4)])[right.topk_ids.long()]
    wanted = right.answer.out + ((1 - right.topk_weights)[:, :, None] * b2).sum(dim=1)
    assert apart(wrong, wanted) < 1e-5


@pytest.mark.parametrize("activation", ["silu", "swiglu_clamped", "relu2_no_mul"])
@pytest.mark.parametrize("quant", ["none", "fp8_tensor", "fp8_block", "int8_channel"])
def test_a_row_shows_that_lost_biases_would_be_rejected(activation, quant):
    right = scene(BIASED.replace(activation=activation, quant=quant)).first(1)
    for name in ("first_bias_missing", "second_bias_missing"):
        assert bool(rejected(named(name).compute(right)[None], right))


NO_MISTAKE = [
    *(
        (name, case(), "the experts have no biases")
        for name in ("first_bias_missing", "second_bias_unweighted", "expert_without_biases")
    ),
    ("second_bias_on_each_rank", BIASED, "whole experts"),
    ("second_bias_unweighted", BIASED.replace(top_k=1), "no router weight"),
    ("bias_halves_swapped", BIASED.replace(activation="silu_no_mul"), "is not gated"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)
