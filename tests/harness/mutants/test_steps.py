"""The steps through an expert, and what they share."""

from __future__ import annotations

import dataclasses

import torch

from harness.mutants.steps import (
    RIGHT,
    Shard,
    cached,
    codes,
    matrices,
    quantized_input,
    right_halves,
    right_second,
)
from moe.formats import FORMATS
from tests.harness.mutants.samples import case, scene


def test_a_rank_takes_its_columns_of_gate_and_of_up():
    shard = Shard(rank=1, columns=slice(2, 4), intermediate=4)
    gate, up = right_halves(torch.arange(8.0)[None], shard)
    assert (gate.tolist(), up.tolist()) == ([[2.0, 3.0]], [[6.0, 7.0]])
    gate, up = right_halves(torch.arange(4.0)[None], shard)
    assert (gate.tolist(), up) == ([[2.0, 3.0]], None)


def test_codes_are_clamped_and_rounded_to_the_grid():
    fmt = FORMATS["int8_token"]
    assert codes(torch.tensor([1.4, 300.0, -300.0]), torch.tensor(1.0), fmt).tolist() == [
        1,
        127,
        -127,
    ]


def test_unquantized_values_pass_unchanged():
    here = scene(case())
    assert torch.equal(quantized_input(here), here.x.to(here.reference.dtype))
    h = torch.tensor([[0.3]])
    assert right_second(here, h, 0) is h


def test_only_changed_first_steps_prevent_the_first_product_from_being_used_again():
    assert RIGHT.starts_right()
    assert dataclasses.replace(RIGHT, second=lambda *a: a[1]).starts_right()
    assert not dataclasses.replace(RIGHT, w13=lambda _, e: e.w13).starts_right()


def test_values_are_computed_once_for_a_scene():
    here = scene(case(quant="fp8_block"))
    assert matrices(here, 1) is matrices(here, 1)
    assert matrices(here, 1) is not matrices(here, 0)
    assert [cached(here, ("key",), lambda n=n: n) for n in (1, 2)] == [1, 1]
