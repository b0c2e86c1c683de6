"""Of a product that is wrong by chance no kind of statement is made, of however few rows it is.

A statement with something for each expert, column or group explains anything of one row.
"""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.conditions import Fact
from harness.diagnosis.stage_moved import moved_columns, moved_rows
from harness.diagnosis.which_addend import which_addend
from harness.diagnosis.which_code_values import which_code_values
from harness.diagnosis.which_expert import Matrix, Rows, which_expert
from harness.diagnosis.which_factor import which_factor
from harness.diagnosis.which_groups import which_groups
from harness.diagnosis.which_parts import Operands, which_parts
from harness.diagnosis.which_weights import Multiplied, codes_of, which_weights
from moe.formats import FORMATS
from tests.harness.diagnosis.drawn_errors import of_product

INNER, COLUMNS, GROUP = 64, 48, 32
ROWS = [(8, 6, 1), (1,), (2, 2)]  # of each expert


def drawn(sizes):
    draw, given, start = torch.Generator().manual_seed(3), [], 0
    for size in sizes:
        w = torch.randn(COLUMNS, INNER, generator=draw).bfloat16().float()
        codes = codes_of(w, FORMATS["int4_zp_g32"])
        x = torch.randn(size, INNER, generator=draw)
        given.append(Multiplied(rows=torch.arange(start, start + size), x=x, codes=codes))
        start += size
    return given


def stage(given, actual):
    """The product if it held this."""
    expected = torch.cat([one.x @ one.codes.values.T for one in given])
    of_row = torch.cat([torch.full((len(one.rows),), float(e)) for e, one in enumerate(given)])
    numbers = torch.arange(len(expected)).double()
    facts = (
        Fact(one="expert", many="experts", values=of_row.double()),
        Fact(one="slot", many="slots", values=numbers % 2),
        Fact(one="gathered row", many="gathered rows", values=numbers // 2),
    )
    return of_product(expected, actual(expected.clone()), least=1e-3, facts=facts)


def statements(errors, given):
    """What the kinds say that need no more than a product and what it multiplies."""
    operands = [
        Operands(expert=e, rows=one.rows, x=one.x, w=one.codes.values)
        for e, one in enumerate(given)
    ]
    rows = [Rows(expert=e, numbers=one.rows, x=one.x) for e, one in enumerate(given)]
    table = {e: Matrix(w=one.codes.values) for e, one in enumerate(given)}
    causes = [
        *(of(errors) for of in (which_factor, which_addend, moved_columns, moved_rows)),
        *which_parts(errors, operands),
        *which_expert(errors, rows, table),
        *which_weights(errors, given, GROUP),
        *which_groups(errors, given, GROUP),
        *which_code_values(errors, given),
    ]
    return [cause.cause for cause in causes if cause is not None]


def last_row(actual):
    actual[-1] = 8 * torch.randn(COLUMNS, generator=torch.Generator().manual_seed(4))
    return actual


def half_a_row(actual):
    actual[-1, : COLUMNS // 2] += torch.randn(COLUMNS // 2)
    return actual


def one_column(actual):
    actual[:, 3] += 8 * torch.randn(len(actual), generator=torch.Generator().manual_seed(5))
    return actual


def other_input(actual):
    one = drawn((1,))[0]
    actual[0] = one.x[0].roll(5) @ torch.randn(COLUMNS, INNER).T
    return actual


@pytest.mark.parametrize("sizes", ROWS)
@pytest.mark.parametrize("actual", [last_row, half_a_row, one_column, other_input])
def test_of_what_is_wrong_by_chance_nothing_is_said(sizes, actual):
    given = drawn(sizes)
    assert statements(stage(given, actual), given) == []
