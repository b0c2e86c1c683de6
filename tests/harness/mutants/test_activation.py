"""Mistakes inside an expert give what the real stack gives with them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.mutants import FEW, NotApplicable, named
from tests.harness.mutants.real_layer import assert_foretold, real
from tests.harness.mutants.samples import (
    apart,
    assert_no_mistake,
    case,
    scene,
)


def swap_halves(w):
    def swapped(t):
        raw = t.view(torch.uint8) if t.element_size() == 1 else t
        return torch.cat(raw.chunk(2, dim=1)[::-1], dim=1).view(t.dtype)

    scale = w.w13_scale
    one_for_both = scale is None or scale.ndim == 1
    return w.replace(w13=swapped(w.w13), w13_scale=scale if one_for_both else swapped(scale))


def tiles_transposed(w2):
    e, down, across = w2.shape[0], w2.shape[1] // 128, w2.shape[2] // 128
    tiles = w2.reshape(e, down, 128, across, 128).transpose(2, 4)
    return tiles.reshape(w2.shape)


def test_a_whole_matrix_of_one_block_is_transposed_too():
    one = case(n=128, k=128)
    out, here = real(one, change_weights=lambda w: w.replace(w2=w.w2.mT.contiguous()))
    assert apart(out[:FEW], named("w2_blocks_transposed").compute(here)) < 0.004


def test_a_limit_that_nothing_reaches_clamps_nothing():
    right = scene(case(k=128, n=128))
    small = dataclasses.replace(right, x=right.x / 64, memo={})
    with pytest.raises(NotApplicable, match="nothing in these rows is beyond 7"):
        named("gate_clamped").compute(small)


IN_WEIGHTS = [
    ("gate_up_swapped", "none", swap_halves),
    ("gate_up_swapped", "fp8_block", swap_halves),
    ("gate_up_swapped", "fp8_tensor", swap_halves),
    ("w2_blocks_transposed", "none", lambda w: w.replace(w2=tiles_transposed(w.w2))),
]


@pytest.mark.parametrize(("name", "quant", "change"), IN_WEIGHTS)
def test_a_mistake_in_the_weights_is_foretold(name, quant, change):
    assert_foretold(name, case(quant=quant), change_weights=change)


NO_MISTAKE = [
    ("silu", case(), "silu is the layer's own activation"),
    ("gelu_tanh", case(activation="gelu_tanh"), "gelu_tanh is the layer's own activation"),
    ("gelu", case(activation="gelu_no_mul"), "gelu_no_mul is the layer's own activation"),
    ("shard_of_joined_rows", case(tp_size=2, use_ep=True), "whole experts"),
    *(
        (name, case(activation="silu_no_mul", tp_size=2), "is not gated")
        for name in (
            *("gate_up_swapped", "silu_without_up", "up_without_gate", "swiglu_oai"),
            *("gate_up_interleaved", "shard_of_joined_rows"),
        )
    ),
    ("up_scale_from_gate", case(activation="silu_no_mul", quant="fp8_block"), "is not gated"),
    ("gate_up_interleaved", case(n=1), "interleaved as they are"),
    ("odd_k_blocks_missing", case(k=128), "one block of 128"),
    ("last_k_block_missing", case(k=256), "every second one"),
    ("last_n_block_missing", case(n=128), "no more than 128 intermediate columns"),
    ("last_n_block_missing", case(n=256, tp_size=2), "no more than 128 intermediate columns"),
    ("w2_blocks_transposed", case(n=64), "no whole block"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)
