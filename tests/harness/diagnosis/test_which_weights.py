"""How weights were read is named as it was drawn; nothing is said of noise and of mixtures."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.diagnosis.weight_readings import readings
from harness.diagnosis.which_weights import Multiplied, Unsplit, codes_of, of_parts, which_weights
from moe.formats import FORMATS
from moe.reference import formats
from tests.harness.diagnosis.drawn_errors import by_row, of_product
from tests.harness.diagnosis.drawn_weights import drawn

ROWS, INNER, COLUMNS, EXPERTS = 6, 128, 48, 2  # rows of each expert
GROUP = {"int4_zp_g32": 32, "fp8_channel": None, "model": None, "fp8_block": 128}


def given_of(name):
    return drawn(name, 3, rows=ROWS, inner=INNER, columns=COLUMNS, experts=EXPERTS)


def said(name, changed, noise=0.0):
    """The first statement if the experts had these codes."""
    given = given_of(name)
    expected = torch.cat([one.x @ one.codes.values.T for one in given])
    actual = torch.cat([one.x @ codes.values.T for one, codes in zip(given, changed, strict=True)])
    actual = (actual + noise * torch.randn(actual.shape)).bfloat16().float()
    errors = of_product(expected, actual, least=1e-3, facts=by_row(expected))
    causes = which_weights(errors, given, GROUP[name])
    return causes[0].cause.removeprefix("in stage gemm1 the weights ") if causes else None


@pytest.mark.parametrize("name", GROUP)
def test_each_reading_is_named_or_one_that_gives_the_same(name):
    table = dict(readings(GROUP[name]))
    for text, read in list(table.items())[::3]:
        changed = [read(one.codes) for one in given_of(name)]
        if any(codes is None for codes in changed):
            continue
        cause = said(name, changed)
        if cause != text:  # such as `rounded down` and `toward zero` of codes from 0 on
            right = [one.codes for one in given_of(name)]  # as by scales of twice the size in fp8
            same = right if cause is None else [table[cause](codes) for codes in right]
            pairs = zip(same, changed, strict=True)
            assert all(torch.allclose(a.values, b.values, atol=1e-3) for a, b in pairs), (
                text,
                cause,
            )


def test_nothing_is_said_of_noise_and_of_experts_that_differ():
    given = given_of("int4_zp_g32")
    right = [one.codes for one in given]
    assert said("int4_zp_g32", right, noise=1.0) is None
    first, second = list(readings(32))[4:6]
    assert said("int4_zp_g32", [first[1](right[0]), second[1](right[1])]) is None


def test_codes_are_those_of_the_reference():
    w = torch.randn(COLUMNS, INNER).bfloat16().float()
    for name in GROUP:
        assert torch.equal(
            codes_of(w, FORMATS[name]).values, formats.weight_values(w, FORMATS[name])
        )


def test_a_reading_of_the_matrix_before_it_is_split_over_ranks():
    """The second rank's columns, of scales whose groups are read in another order."""
    draw, group = torch.Generator().manual_seed(4), 32
    w = torch.randn(COLUMNS, 2 * INNER, generator=draw)
    matrix = codes_of(w, FORMATS["int4_zp_g32"])
    one = Unsplit(codes=matrix, part=lambda m: m[:, INNER:], w=w)
    x = torch.randn(4 * ROWS, INNER, generator=draw)
    rank = Multiplied(rows=torch.arange(len(x)), x=x, codes=of_parts(matrix, one.part), unsplit=one)
    text = "have the scales of the groups of inputs in reverse order"
    wrong = rank.read(dict(readings(group))[text], before=True)
    expected = x @ rank.codes.values.T
    errors = of_product(expected, x @ wrong.values.T, least=1e-3, facts=by_row(expected))
    cause = which_weights(errors, [rank], group)[0]
    assert cause.cause == f"in stage gemm1 the weights {text}, before they are split over ranks"
    alone = Multiplied(rows=rank.rows, x=x, codes=rank.codes)
    assert which_weights(errors, [alone], group) == []
    assert alone.read(dict(readings(group))[text], before=True) is None


def test_scales_of_gate_and_up_that_are_cut_as_one_run_of_rows():
    draw, half = torch.Generator().manual_seed(5), COLUMNS // 2
    w = torch.randn(2 * COLUMNS, INNER, generator=draw)
    matrix = codes_of(w, FORMATS["fp8_channel"])
    # the second rank's rows: the upper half of gate's, and of up's
    own = torch.cat([torch.arange(half, COLUMNS), torch.arange(COLUMNS + half, 2 * COLUMNS)])
    one = Unsplit(codes=matrix, part=lambda m: m[own], w=w)
    x = torch.randn(ROWS, INNER, generator=draw)
    codes = of_parts(matrix, one.part)
    rank = Multiplied(rows=torch.arange(ROWS), x=x, codes=codes, unsplit=one)
    wrong = dataclasses.replace(codes, scale=matrix.scale[COLUMNS:])
    expected = x @ codes.values.T
    errors = of_product(expected, x @ wrong.values.T, least=1e-3, facts=by_row(expected))
    (cause,) = which_weights(errors, [rank], None)
    text = "have scales that are cut over ranks as one run of rows, their codes as gate and up"
    assert cause.cause == f"in stage gemm1 the weights {text}"
    inner = Unsplit(codes=matrix, part=lambda m: m[:, ::2], w=w)  # as the second matrix is split
    assert dataclasses.replace(rank, unsplit=inner).cut_as_one is None


def test_two_readings_that_give_the_same_are_both_named():
    """Of two groups of inputs, the one before each is the one after it."""
    draw, group = torch.Generator().manual_seed(6), 32
    codes = codes_of(torch.randn(COLUMNS, 2 * group, generator=draw), FORMATS["int4_g32"])
    x = torch.randn(ROWS, 2 * group, generator=draw)
    one = Multiplied(rows=torch.arange(ROWS), x=x, codes=codes)
    side = "have the scale of the group of inputs {} each"
    wrong = dict(readings(group))[side.format("before")](codes)
    expected = x @ codes.values.T
    errors = of_product(expected, x @ wrong.values.T, least=1e-3, facts=by_row(expected))
    causes = which_weights(errors, [one], group)
    assert [cause.cause.removeprefix("in stage gemm1 the weights ") for cause in causes] == [
        side.format("before"),
        side.format("after"),
    ]


def test_weights_that_each_rank_quantizes_by_itself():
    """A row's scale is then that of the rank's columns, which lack the largest of some rows."""
    draw, fmt = torch.Generator().manual_seed(8), FORMATS["fp8_channel"]
    w = torch.randn(COLUMNS, 2 * INNER, generator=draw)
    one = Unsplit(codes=codes_of(w, fmt), part=lambda m: m[:, :INNER], w=w)
    x = torch.randn(ROWS, INNER, generator=draw)
    rank = Multiplied(
        rows=torch.arange(ROWS), x=x, codes=of_parts(one.codes, one.part), unsplit=one
    )
    expected, wrong = x @ rank.codes.values.T, codes_of(w[:, :INNER], fmt).values
    errors = of_product(expected, x @ wrong.T, least=1e-3, facts=by_row(expected))
    (cause,) = which_weights(errors, [rank], None)
    text = "in stage gemm1 the weights are quantized after they were split over ranks"
    assert cause.cause == text
    alone = dataclasses.replace(rank, unsplit=None)
    assert alone.made_of_part is None
