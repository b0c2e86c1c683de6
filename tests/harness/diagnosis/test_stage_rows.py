"""The wrong rows of a stage are told by their expert, slot or place; others are not told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harness.diagnosis import diagnose
from harness.diagnosis.conditions import Fact
from harness.diagnosis.stage_rows import rows_text, token_facts
from harness.record.result import Verdict
from moe.experts import torch_loop
from tests.harness.diagnosis.explained import RIGHT, explained, names, texts
from tests.harness.execute_ranks import case, run_all

CASE = case(m=24, n=96, k=256, num_experts=4, top_k=2, all2all="local")


def patterns_of(change):
    """The patterns of the first call if each product of an expert [r, 2n] is changed so."""
    real = torch_loop.added

    def changed(product, bias, e):
        out = real(product, bias, e)
        return change(out, e) if out.shape[1] == 2 * CASE.n else out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_loop, "added", changed)
        (result,) = run_all([CASE.id])
    assert result.verdict is Verdict.FAILED
    assert all(call.faults == () for call in result.diagnosis.calls)
    patterns = result.diagnosis.calls[0].patterns
    return [pattern.text for pattern in patterns if pattern.name == "stage_rows"]


def from_row(number, value):
    def change(out, e):
        out[number:] = value
        return out

    return change


def test_rows_beyond_a_capacity_that_nobody_wrote():
    (text,) = patterns_of(from_row(8, torch.nan))
    assert text == (
        "stage gemm1 is wrong for rows beyond the first 8 of an expert only; these rows are all "
        "NaN: never written, or computed from NaN"
    )


def test_rows_beyond_a_capacity_that_are_zeros():
    (text,) = patterns_of(from_row(4, 0.0))
    assert "rows beyond the first 4 of an expert only; these rows are all zero" in text


def test_an_expert():
    assert patterns_of(lambda out, e: out.roll(1, 1) if e == 2 else out) == [
        "stage gemm1 is wrong for expert 2 only"
    ]


def test_rows_that_have_nothing_in_common_have_no_pattern():
    generator = torch.Generator().manual_seed(1)

    def change(out, e):
        out[torch.rand(len(out), generator=generator) < 0.5] *= 3
        return out

    assert patterns_of(change) == []


def test_an_exception_hides_neither_the_numbers_nor_other_patterns(monkeypatch):
    def broken(evidence):
        raise IndexError("out of range")

    monkeypatch.setattr(diagnose, "of_stage", broken)
    found = explained(RIGHT * 2)
    assert found.faults == ("stage_rows: IndexError: out of range",)
    assert (found.facts.rows.wrong, texts(found), names(found)) == (40, ["all rows"], ["doubled"])


def slots(count=24):
    return [Fact(one="slot", many="slots", values=(torch.arange(count) % 2).double())]


def test_rows_that_are_nan_are_told_from_others_that_are_wrong():
    actual = torch.ones(24, 4)
    actual[1::2] = torch.nan
    is_wrong = torch.arange(24) % 2 == 1
    is_wrong[4] = True
    known = torch.ones(24, dtype=torch.bool)
    text = rows_text(slots(), actual, is_wrong, known)
    assert text == "is NaN for slot 1 only, and wrong for others, too"
    actual[4] = torch.nan
    assert rows_text(slots(), actual, is_wrong, known) is None


def test_rows_of_a_sum_with_slots_that_nobody_computed():
    """The facts of a sum's rows: whether all slots are computed here, and whether one is."""
    ids = torch.tensor([[0, 1], [0, -1], [-1, -1], [1, 0]]).repeat(6, 1)[
        [*range(9), 0, *range(9, 23)]
    ]
    handed = SimpleNamespace(ids=ids, top_k=2)
    facts = token_facts(handed, torch.arange(24))
    actual, known = torch.ones(24, 4), torch.ones(24, dtype=torch.bool)
    unused = (ids < 0).any(dim=1)
    actual[unused] = torch.nan
    assert rows_text(facts, actual, unused, known) == (
        "is wrong for rows with a slot that this rank does not compute (-1) only; these rows are "
        "all NaN, as if such slots were added"
    )
    nowhere = (ids < 0).all(dim=1)
    assert rows_text(facts, torch.ones(24, 4), nowhere, known) == (
        "is wrong for rows without any expert of this rank only"
    )
