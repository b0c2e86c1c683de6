"""Wrong rows and columns; of many rows, the ones that were swapped or zeroed are found."""

from __future__ import annotations

import pytest
import torch

from harness.mutants import named
from tests.harness.mutants.samples import (
    assert_no_mistake,
    case,
    scene,
    seen,
)


def test_rows_come_from_all_tokens_not_only_the_chosen():
    here = scene(case(m=40))
    assert len(here.rows) == 16
    out = named("rolled").compute(here)
    assert torch.equal(out[3], here.all_rows[int(here.rows[3]) - 1])


def test_the_rows_that_were_swapped_or_zeroed_are_found():
    right = scene(case(m=12))
    wrong = right.answer.out.clone()
    wrong[[3, 9]] = wrong[[9, 3]]
    assert torch.equal(named("swapped").compute(seen(right, wrong)), wrong)
    wrong = right.answer.out.clone()
    wrong[7] = 0
    assert torch.equal(named("row_zeroed").compute(seen(right, wrong)), wrong)


NO_MISTAKE = [
    ("rolled", case(m=1), "rolling 1 row"),
    ("rolled", case(tp_size=2, use_ep=True, sequence_parallel=True, m=2), "rolling 1 row"),
    ("swapped", case(m=1), "one token only"),
    ("rows_off_by_block", case(m=16), "rolling 16 row"),
    ("columns_rolled", case(k=128), "one block of 128"),
    ("columns_reversed_blocks", case(k=128), "one block of 128"),
    ("odd_columns_swapped", case(k=1), "one hidden column"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)
