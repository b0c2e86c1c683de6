"""Whose scales groups have is found in any order, and said only if one order explains all rows."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.diagnosis.which_groups import which_groups
from tests.harness.diagnosis.drawn_errors import by_row, of_product
from tests.harness.diagnosis.drawn_weights import drawn

ROWS, INNER, COLUMNS, EXPERTS, GROUP = 8, 192, 64, 2, 32


def given_of(name="int4_zp_g32"):
    return drawn(name, 9, rows=ROWS, inner=INNER, columns=COLUMNS, experts=EXPERTS)


def said(given, changed, noise=0.0):
    expected = torch.cat([one.x @ one.codes.values.T for one in given])
    actual = torch.cat([one.x @ codes.values.T for one, codes in zip(given, changed, strict=True)])
    actual = actual + noise * torch.randn(actual.shape, generator=torch.Generator().manual_seed(1))
    errors = of_product(expected, actual.bfloat16().float(), least=1e-3, facts=by_row(expected))
    causes = which_groups(errors, given, GROUP)
    return causes[0].cause.removeprefix("in stage gemm1 the weights ") if causes else None


def with_those_of(codes, sources, *parts):
    at = torch.tensor(sources).repeat_interleave(GROUP) * GROUP
    return dataclasses.replace(codes, **{part: getattr(codes, part)[:, at] for part in parts})


@pytest.mark.parametrize("sources", [(0, 3, 1, 4, 2, 5), (5, 4, 3, 2, 1, 0), (0, 0, 2, 2, 4, 4)])
@pytest.mark.parametrize(
    ("noun", "parts"),
    [
        ("scales", ["scale"]),
        ("zero points", ["zero"]),
        ("scales and zero points", ["scale", "zero"]),
    ],
)
def test_whose_scales_and_zero_points_groups_have(sources, noun, parts):
    given = given_of()
    changed = [with_those_of(one.codes, sources, *parts) for one in given]
    listed = " ".join(map(str, sources))
    assert said(given, changed) == (
        f"have the {noun} of other groups of inputs: group 0 1 2 3 4 5 that of {listed}"
    )


def test_nothing_is_said_of_other_mistakes():
    given = given_of()
    codes = [one.codes for one in given]
    assert said(given, codes) is None
    assert said(given, codes, noise=1.0) is None
    assert (
        said(given, [dataclasses.replace(c, codes=c.codes.roll(GROUP, 1)) for c in codes]) is None
    )
    assert said(given, [dataclasses.replace(c, scale=c.scale.roll(1, 0)) for c in codes]) is None
    swapped = with_those_of(codes[0], (1, 0, 2, 3, 4, 5), "scale")
    assert said(given, [swapped, with_those_of(codes[1], (0, 1, 3, 2, 4, 5), "scale")]) is None


def test_nothing_is_said_where_scales_are_alike():
    """Of equal scales nobody can tell whose they are."""
    given = given_of()
    alike = [with_those_of(one.codes, (0, 0, 2, 3, 4, 5), "scale") for one in given]
    given = [dataclasses.replace(one, codes=codes) for one, codes in zip(given, alike, strict=True)]
    changed = [with_those_of(codes, (0, 1, 3, 2, 4, 5), "scale") for codes in alike]
    assert said(given, changed) is None
