"""A few rows stand for the wrong ones; those whose parts are known are not computed again."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.checks.output import row_tolerance
from harness.diagnosis.wrong_rows import ENOUGH, clear_first, sample_rows, spread
from harness.fixtures.exact_tensors import settled
from harness.fixtures.layer_call import MAX_ROWS, chosen_rows
from harness.matrix.exactness import is_bitwise
from tests.harness.diagnosis.mistaken import CASE, CPU, call_of, scene

CALL, REFERENCE = call_of()
KNOWN = chosen_rows(40, CPU)


def marked(rows):
    is_wrong = torch.zeros(40, dtype=torch.bool)
    is_wrong[rows] = True
    return is_wrong


class Forbidden:
    """A reference that must not be asked."""

    def __call__(self, *args, **kw):
        raise AssertionError("rows with known parts are computed again")


def test_rows_with_known_parts_are_taken_as_they_are():
    unasked = dataclasses.replace(scene(CALL), reference=Forbidden())
    few = sample_rows(unasked, CALL, torch.ones(40, dtype=torch.bool))
    assert set(few.rows.tolist()) == set(KNOWN.tolist())
    assert torch.equal(few.answer.out, CALL.answer.out[few.rows])
    assert torch.equal(few.answer.parts, CALL.answer.parts)
    few = sample_rows(unasked, CALL, marked(KNOWN[4:]))
    assert few.rows.tolist()[:12] == KNOWN[4:].tolist()
    assert few.rows.tolist()[12:] == KNOWN[:4].tolist()
    assert torch.equal(few.answer.parts[:, :12], CALL.answer.parts[:, 4:])


def test_too_few_known_wrong_rows_are_completed_by_the_reference():
    others = [row for row in range(40) if row not in KNOWN.tolist()]
    for rows in (others, [int(KNOWN[3]), *others[:ENOUGH]]):
        few = sample_rows(scene(CALL), CALL, marked(rows))
        wrong = [row for row in few.rows.tolist() if row in rows]
        assert few.rows.tolist()[: len(wrong)] == wrong
        assert len(wrong) == min(len(rows), MAX_ROWS - 4)
        weights = few.topk_weights
        total = torch.einsum("wrkh,rk->rh", few.answer.parts, weights)
        torch.testing.assert_close(total, CALL.answer.out[few.rows], rtol=1e-3, atol=1e-3)


def test_the_rows_know_the_largest_values_of_all_rows():
    """A scale that spans all rows is worked out from them."""
    for is_wrong in (torch.zeros(40, dtype=torch.bool), marked([1, 2])):
        few = sample_rows(scene(CALL), CALL, is_wrong)
        assert len(few.rows) < 40
        assert few.answer.amax1 == CALL.answer.amax1
        assert few.answer.amax2 == CALL.answer.amax2
    alone = REFERENCE(few.x, few.topk_ids, few.topk_weights)
    assert alone.amax2 < CALL.answer.amax2


def test_a_case_compared_bit_by_bit_allows_predictions_an_error_all_the_same():
    exact = CASE.replace(exact=True)
    assert is_bitwise(exact)
    call, _ = call_of(exact)
    call = dataclasses.replace(call, answer=settled(exact, call.answer))
    assert not call.answer.variance.any()
    few = sample_rows(scene(call, exact), call, torch.ones(40, dtype=torch.bool))
    assert bool((few.answer.variance > 0).all())


@pytest.mark.parametrize(
    ("count", "limit", "chosen"), [(3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (0, 4, [])]
)
def test_numbers_are_spread_with_both_ends(count, limit, chosen):
    assert spread(torch.arange(count), limit).tolist() == chosen


def test_the_first_clear_one_of_the_wrong_rows_comes_first():
    few = sample_rows(scene(CALL), CALL, torch.ones(40, dtype=torch.bool))
    tolerance = row_tolerance(few.answer)[:, None]
    step = tolerance / few.answer.out.shape[1] ** 0.5  # in each column: an error of one tolerance
    is_wrong = torch.ones(len(few.rows), dtype=torch.bool)
    is_wrong[4] = False
    for times, first in (((2, 2, 100, 50, 999), 2), ((2, 3, 2, 2, 999), 1)):
        factor = torch.tensor([*times, *[2] * (len(few.rows) - 5)])[:, None]
        far = dataclasses.replace(few, actual=few.answer.out + factor * step)
        ordered, wrong = clear_first(far, is_wrong)
        assert ordered.rows[0] == few.rows[first], times
        assert sorted(ordered.rows.tolist()) == few.rows.tolist()
        assert torch.equal(ordered.actual[0], far.actual[first])
        assert torch.equal(ordered.answer.parts[:, 0], few.answer.parts[:, first])
        assert [row for row, w in zip(ordered.rows, wrong, strict=True) if not w] == [few.rows[4]]
