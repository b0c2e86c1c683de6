"""Other logits are named by the experts and weights that they give; of noise nothing is said."""

from __future__ import annotations

import dataclasses

import torch

from harness.diagnosis.router_logits import follows, other_logits, router_logits
from tests.harness.diagnosis.routed import EXPERTS, TOKENS, routed_by

ROWS = torch.arange(TOKENS)


def said(routed, weights):
    causes = router_logits(routed, weights, routed.logits, ROWS)
    head = "in the router experts and weights are those of "
    return [cause.cause.removeprefix(head) for cause in causes]


def of_logits(routed, logits):
    """The routing by these logits, and its weights."""
    ids = routed.truth.choose(logits).long()
    return dataclasses.replace(routed, ids=ids), routed.truth.weights(logits, ids).double()


def test_each_kind_of_logits_is_named():
    routed = routed_by()
    for text, logits in other_logits(routed.logits, ROWS):
        known = logits.isfinite().all(dim=1)
        filled = torch.where(known[:, None], logits, routed.logits.flip(0))
        other, weights = of_logits(routed, filled)
        if int((~follows(routed, routed.logits, weights))[known].sum()) < 2:
            continue
        assert text in [t.split(" for tokens")[0] for t in said(other, weights)], text


def test_rows_that_are_read_too_far_apart():
    routed = routed_by()
    logits = routed.logits[:, : EXPERTS - 1].contiguous()
    texts = dict(other_logits(logits, ROWS))
    far = texts[f"rows that are read {EXPERTS} logits apart, not {EXPERTS - 1}"]
    assert torch.equal(far[1], logits.flatten()[EXPERTS : 2 * EXPERTS - 1])
    assert bool(far[-1].isnan().any())


def test_of_right_weights_of_others_and_of_one_token_nothing_is_said():
    routed = routed_by()
    right, weights = of_logits(routed, routed.logits)
    assert said(right, weights) == []
    assert said(right, weights * 1.01) == []
    rounded, of_rounded = of_logits(routed, routed.logits.bfloat16().double())
    one = weights.clone()
    one[3] = of_rounded[3]
    assert (
        said(
            dataclasses.replace(right, ids=torch.where(one == weights, right.ids, rounded.ids)), one
        )
        == []
    )
