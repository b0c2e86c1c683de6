"""The terms of an output add up to it, and each is known by its slot, expert, rank and place."""

from __future__ import annotations

import torch

from harness.diagnosis.output_terms import place_among_equal, terms_of
from tests.harness.diagnosis.wrong_sums import SMALL, SPLIT, SPREAD, evidence_of, shares_of


def of(case, rank=0):
    call, _ = shares_of(case, rank)
    evidence = evidence_of(call.answer.out * 2, case, rank)
    return list(terms_of(evidence, evidence.sampled)), evidence.sampled


def facts(terms):
    return {
        fact.many or fact.names: fact.values.view(terms.values.shape[:2]) for fact in terms.facts
    }


def test_slots_shared_and_zero_experts_add_up_to_the_output():
    (terms,), scene = of(SMALL.replace(shared_experts=1))
    torch.testing.assert_close(terms.values.sum(dim=1), terms.expected, rtol=1e-4, atol=1e-4)
    assert terms.values.shape[1] == SMALL.top_k + 1
    known = facts(terms)
    assert torch.equal(known["experts"][:, :-1], scene.topk_ids.double())
    assert bool(known["experts"][:, -1].isnan().all())
    assert torch.equal(known["rows"][:, 0], scene.rows.double())


def test_ranks_that_split_experts_are_terms_too():
    (_, ranks), _ = of(SPLIT)
    torch.testing.assert_close(ranks.values.sum(dim=1), ranks.expected, rtol=1e-4, atol=1e-4)
    assert facts(ranks)["ranks"][0].tolist() == [0, 1, 2, 3]


def test_each_share_has_its_rank_and_local_expert():
    (terms,), scene = of(SPREAD, rank=1)
    known = facts(terms)
    assert torch.equal(known["ranks"], scene.topk_ids.double() // 4)
    assert torch.equal(known["local experts"], scene.topk_ids.double() % 4)
    assert torch.equal(known["other ranks' experts", "this rank's experts"], known["ranks"])
    assert "its expert's rows" not in known  # other ranks send rows, too


def test_the_place_of_a_row_among_those_of_its_expert():
    numbers = torch.tensor([3, 1, 3, 3, 1, 0])
    assert place_among_equal(numbers).tolist() == [0, 0, 1, 2, 1, 0]
    (terms,), scene = of(SMALL)
    ids = shares_of()[0].output.routing.topk_ids
    row, slot = int(scene.rows[5]), 2
    place = int((ids[:row] == ids[row, slot]).sum())
    assert int(facts(terms)["its expert's rows"][5, slot]) == place


def test_too_few_columns_give_no_terms():
    call, _ = shares_of()
    out = call.answer.out.clone()
    out[:, :8] *= 2
    evidence = evidence_of(out)
    assert int(evidence.columns.sum()) == 8
    assert list(terms_of(evidence, evidence.sampled)) == []
