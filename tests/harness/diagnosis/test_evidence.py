"""What explanations are made from: wrong rows first, and more rows only when they are asked for."""

from __future__ import annotations

import torch

from harness.diagnosis.evidence import MANY_ROWS
from tests.harness.diagnosis.wrong_sums import SMALL, evidence_of, shares_of

LONG = SMALL.replace(m=MANY_ROWS + 40)


def test_no_wrong_row_means_all_rows():
    right = shares_of()[0].answer.out
    assert bool(evidence_of(right).is_wrong.all())
    out = right.clone()
    out[3] *= 2
    assert evidence_of(out).is_wrong.nonzero().flatten().tolist() == [3]


def test_more_rows_have_both_kinds_and_their_parts():
    out = shares_of(LONG)[0].answer.out.clone()
    out[:100] *= 2
    evidence = evidence_of(out, LONG)
    rows = evidence.larger.rows
    assert len(rows) == len(torch.unique(rows)) == MANY_ROWS
    assert int((rows < 100).sum()) == 2 * MANY_ROWS // 3
    weights = evidence.larger.topk_weights
    total = torch.einsum("wrkh,rk->rh", evidence.larger.answer.parts, weights)
    torch.testing.assert_close(total, shares_of(LONG)[0].answer.out[rows], rtol=1e-3, atol=1e-3)


def test_all_rows_of_a_short_call_are_known_already():
    case = SMALL.replace(m=8)
    evidence = evidence_of(shares_of(case)[0].answer.out * 2, case)
    assert evidence.larger is evidence.sampled
