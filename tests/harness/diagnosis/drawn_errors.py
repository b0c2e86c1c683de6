"""Make the right elements of a stage wrong by drawn structure."""

from __future__ import annotations

import torch

from harness.diagnosis.conditions import Fact
from harness.diagnosis.stage_errors import StageErrors
from moe.reference import formats

ROWS, COLUMNS, EXPERTS = 24, 192, 3


def right(seed=0, stage="gemm1", halves=False):
    """What a stage should hold, and what it holds, rounded to bf16; eight rows for each expert."""
    generator = torch.Generator().manual_seed(seed)
    expected = torch.randn(ROWS, COLUMNS, generator=generator)
    numbers = torch.arange(ROWS)
    experts = Fact(one="expert", many="experts", values=(numbers // 8).double())
    rows = Fact(one="gathered row", many="gathered rows", values=numbers.double())
    return StageErrors(
        stage=stage,
        noun="elements",
        actual=expected.bfloat16().float(),
        expected=expected,
        tolerance=formats.step_of(expected.abs(), "bf16") * 0.6,
        numbers=numbers,
        facts=(experts, rows),
        halves=halves,
    )


def holding(errors, actual):
    """The stage if it held this, rounded to bf16."""
    fields = {name: getattr(errors, name) for name in errors.__dataclass_fields__}
    return StageErrors(**{**fields, "actual": actual.bfloat16().float()})


def of_product(expected, actual, least, stage="gemm1", facts=()):
    """A product that holds this, rounded to bf16. least: tolerance of an element of 0."""
    return StageErrors(
        stage=stage,
        noun="elements",
        actual=actual.bfloat16().float(),
        expected=expected,
        tolerance=formats.step_of(expected.abs(), "bf16") * 0.6 + least,
        numbers=torch.arange(len(expected)),
        facts=facts,
    )


def by_row(expected):
    """The number of each row, as a fact."""
    return (Fact(one="row", many="rows", values=torch.arange(len(expected)).double()),)


def of_codes(actual, expected, stage):
    """A stage of codes, which allows no error."""
    return StageErrors(
        stage=stage,
        noun="elements",
        actual=actual,
        expected=expected,
        tolerance=torch.full_like(expected, 1e-30),
        numbers=torch.arange(len(expected)),
        facts=(),
    )
