"""Proofs of several ranks: one rank that catches a wrong answer is enough."""

import pytest

from harness.record.proof import Outcome, Proof, best


def proof(name, outcome, explanation=""):
    return Proof(name=name, outcome=outcome, explanation=explanation)


CAUGHT, MISSED, NOT_APPLICABLE = Outcome.CAUGHT, Outcome.MISSED, Outcome.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([CAUGHT, MISSED], CAUGHT),
        ([MISSED, CAUGHT], CAUGHT),
        ([NOT_APPLICABLE, CAUGHT, MISSED], CAUGHT),
        ([NOT_APPLICABLE, MISSED], MISSED),  # it is wrong somewhere, and nobody noticed
        ([NOT_APPLICABLE, NOT_APPLICABLE], NOT_APPLICABLE),
    ],
)
def test_the_best_outcome_of_all_ranks_counts(outcomes, expected):
    ranks = [[proof("zeros", outcome, outcome.value)] for outcome in outcomes]
    assert best(ranks) == (proof("zeros", expected, expected.value),)


def test_each_wrong_answer_comes_once_in_the_order_of_the_ranks():
    ranks = [[proof("a", MISSED, "n"), proof("b", CAUGHT)], [], [proof("c", CAUGHT)]]
    assert [p.name for p in best([*ranks, *ranks])] == ["a", "b", "c"]
    assert best([]) == ()


def test_a_proof_goes_through_json_and_an_unknown_outcome_does_not():
    one = proof("zeros", MISSED, "a larger n")
    assert Proof.from_json(one.to_json()) == one
    with pytest.raises(ValueError, match="perhaps"):
        Proof.from_json({**one.to_json(), "outcome": "perhaps"})
