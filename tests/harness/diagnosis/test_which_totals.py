"""Of which values a global scale is, is named if it explains all experts' rows."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.which_totals import Experts, made_with, which_totals
from harness.diagnosis.which_weights import Multiplied, codes_of
from moe.formats import FORMATS
from tests.harness.diagnosis.drawn_errors import by_row, of_product

ROWS, INNER, COLUMNS, COUNT, FORMAT = 8, 64, 48, 4, FORMATS["nvfp4"]
OWN = (1, 2)  # of a rank that holds both


def experts_of(part=lambda w: w):
    draw = torch.Generator().manual_seed(11)
    size = {0: 1.0, 1: 1.3, 2: 0.7, 3: 1.9}
    both = {
        e: [s * torch.randn(COLUMNS, INNER, generator=draw) for _ in range(2)]
        for e, s in size.items()
    }
    return Experts(
        fmt=FORMAT,
        matrices={e: pair[0] for e, pair in both.items()},
        other={e: pair[1] for e, pair in both.items()},
        own=OWN,
        local=OWN,
        part=part,
    )


def said(experts, weights):
    """The statement if the experts' weights were these, before they are split."""
    draw, given = torch.Generator().manual_seed(12), []
    for place, expert in enumerate(experts.own):
        rows = torch.arange(place * ROWS, (place + 1) * ROWS)
        codes = codes_of(experts.part(experts.matrices[expert]), FORMAT)
        x = torch.randn(ROWS, INNER, generator=draw)
        given.append(Multiplied(rows=rows, x=x, codes=codes))
    expected = torch.cat([one.x @ one.codes.values.T for one in given])
    actual = torch.cat([one.x @ experts.part(w).T for one, w in zip(given, weights, strict=True)])
    errors = of_product(expected, actual, least=1e-3, facts=by_row(expected))
    causes = which_totals(errors, given, experts)
    start = "in stage gemm1 the weights have the global scale of "
    return causes[0].cause.removeprefix(start) if causes else None


TEXTS = [text for text, _ in experts_of().others()]


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_whose_global_scale_weights_have(text):
    experts = experts_of()
    largest = dict(experts.others())[text]
    weights = [made_with(experts.matrices[e], FORMAT, largest[e]) for e in OWN]
    same = [
        made_with(experts.matrices[e], FORMAT, dict(experts.others())[said(experts, weights)][e])
        for e in OWN
    ]
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))


def test_the_names_tell_the_values_apart():
    """Of two experts the one before each is the one after it: both names are right."""
    assert len(TEXTS) == len(set(TEXTS))
    experts = experts_of()
    of_rank = dict(experts.others())[TEXTS[0]]
    weights = [made_with(experts.matrices[e], FORMAT, of_rank[e]) for e in OWN]
    assert said(experts, weights) == "all experts of the rank"


def test_nothing_is_said_of_right_weights_and_of_other_mistakes():
    experts = experts_of()
    right = [codes_of(experts.matrices[e], FORMAT).values for e in OWN]
    assert said(experts, right) is None
    assert said(experts, [w * 1.1 for w in right]) is None
    assert said(experts, [w.roll(1, 1) for w in right]) is None
    one = [made_with(experts.matrices[OWN[0]], FORMAT, experts.matrices[3].abs().amax()), right[1]]
    assert said(experts, one) is None
