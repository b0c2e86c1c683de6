"""What adapters add is named as it was drawn, and nothing of noise."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.diagnosis.conditions import Fact
from harness.diagnosis.stage_errors import StageErrors
from harness.diagnosis.which_adapters import PAIRINGS, Applied, Setting, which_adapters
from moe.reference import formats
from moe.reference.adapters import AdapterTruth

TOKENS, TOP_K, INNER, HALF, EXPERTS, COUNT = 12, 2, 32, 48, 4, 3
FLAT = torch.arange(TOKENS * TOP_K)
LOCAL = (4, 5, 6, 7)


def matrices(adapter, e):
    draw = torch.Generator().manual_seed(100 * adapter + e)
    shapes = (2, 4, INNER), (2, HALF, 4), (4, INNER), (HALF, 4)
    return tuple(torch.randn(shape, generator=draw) for shape in shapes)


def setting(stage="gemm1", **more):
    return Setting(
        stage=stage,
        truth=AdapterTruth(of=matrices, scale=torch.tensor([0.5, 1.0, 2.0])),
        columns=slice(0, HALF if stage == "gemm1" else INNER),
        local=LOCAL,
        gathered=torch.tensor([0, 1, -1, 2, 2, 0, 1, 1, -1, 0, 2, 1]),
        top_k=TOP_K,
        gated=True,
        **more,
    )


def right(given):
    draw = torch.Generator().manual_seed(1)
    experts = torch.tensor(LOCAL)[torch.randint(4, FLAT.shape, generator=draw)]
    x = torch.randn(len(FLAT), INNER, generator=draw)
    return Applied(numbers=given.gathered[FLAT // TOP_K], experts=experts, x=x)


def said(given, applied, times=1.0, noise=0.0):
    """The statement if the adapters were applied so."""
    own, base = right(given), torch.randn(len(FLAT), 1)
    expected = base + given.added(own)
    actual = base + times * given.added(applied)
    actual = (actual + noise * torch.randn(actual.shape)).bfloat16().float()
    errors = StageErrors(
        stage=given.stage,
        noun="elements",
        actual=actual,
        expected=expected,
        tolerance=formats.step_of(expected.abs() + 1, "bf16") * 0.6,
        numbers=FLAT,
        facts=(Fact(one="row", many="rows", values=FLAT.double()),),
    )
    cause = which_adapters(errors, given, own.x, own.experts)
    return None if cause is None else cause.cause.partition(" adapters are applied ")[2]


@pytest.mark.parametrize("text", PAIRINGS)
def test_halves(text):
    given = setting()
    applied = dataclasses.replace(right(given), pairing=PAIRINGS[text])
    assert said(given, applied) == text
    assert said(given, applied, noise=1.0) is None


def test_other_rows_adapters_and_experts():
    given = setting("gemm2")
    own = right(given)
    before = dataclasses.replace(own, numbers=given.gathered.roll(1)[FLAT // TOP_K])
    assert said(given, before) == "as those of the gathered row before"
    third = dataclasses.replace(own, numbers=torch.where(own.numbers < 0, -1, 2))
    assert (
        said(given, third, times=0.5)
        == "as those of adapter 2 for all tokens that have one, times 0.5"
    )
    local = own.experts - LOCAL[0]
    after = dataclasses.replace(own, experts=LOCAL[0] + (local + 1) % EXPERTS)
    assert said(given, after) == "as those of the expert after"
    number = local * COUNT + own.numbers.clamp(min=0)
    pair = dataclasses.replace(
        own,
        numbers=torch.where(own.numbers >= 0, number // EXPERTS % COUNT, -1),
        experts=LOCAL[0] + number % EXPERTS,
    )
    assert said(given, pair) == (
        "by the pair number expert * adapters + adapter, not adapter * experts + expert"
    )


def test_codes_of_the_input():
    own = right(setting("gemm2"))
    given = setting("gemm2", codes=own.x * 9)
    applied = dataclasses.replace(own, x=given.codes)
    assert said(given, applied) == "to the codes of the input, without their scales"


def test_what_is_only_scaled_is_no_other_adapter():
    given = setting()
    assert said(given, right(given), times=3.0) is None


@pytest.mark.parametrize("stage", ["gemm1", "gemm2"])
def test_roundings_inside_what_adapters_add(stage):
    given = setting(stage)
    own = right(given)
    rounded = dataclasses.replace(own, x=own.x.to(torch.float8_e4m3fn).float())
    assert said(given, rounded) == "to the input, rounded to e4m3"
    inner = dataclasses.replace(own, rounded="bf16")
    assert said(given, inner) == "with x @ A rounded to bf16"
    assert said(given, inner, noise=1.0) is None
