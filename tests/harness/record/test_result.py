"""How the ranks' words become one verdict: every rank counts, the worst decides."""

import itertools

import pytest

from harness.record.result import SEVERITY, CaseResult, RankResult, Verdict, merge


def said(rank, verdict=Verdict.PASSED, **more):
    return RankResult(rank=rank, verdict=verdict, **more)


def test_passed_needs_every_rank():
    assert merge("a", 2, [said(0), said(1)], 1.0).verdict is Verdict.PASSED


def test_a_silent_rank_is_an_error():
    result = merge("a", 3, [said(0), said(2)], 1.0)
    assert result.verdict is Verdict.ERROR
    assert result.messages == ("rank 1: said nothing",)


@pytest.mark.parametrize(("worse", "better"), [*itertools.combinations(SEVERITY, 2)])
def test_the_worse_verdict_decides_whatever_the_order(worse, better):
    for pair in ((worse, better), (better, worse)):
        ranks = [said(rank, verdict) for rank, verdict in enumerate(pair)]
        assert merge("a", 2, ranks, 0.0).verdict is worse


def test_equal_messages_come_once_with_their_ranks():
    ranks = [said(1, messages=("x", "y")), said(0, messages=("x",))]
    assert merge("a", 2, ranks, 0.0).messages == ("rank 0,1: x", "rank 1: y")


def test_metrics_are_the_worst_and_phases_the_slowest():
    ranks = [
        said(0, metrics={"rel": 0.1}, seconds={"layer": 2.0}),
        said(1, metrics={"rel": 0.3, "cos": 1.0}, seconds={"layer": 1.0}),
    ]
    result = merge("a", 2, ranks, 0.0)
    assert result.metrics == {"rel": 0.3, "cos": 1.0}
    assert result.phases == {"layer": 2.0}
    assert result.ranks == {"0": "passed", "1": "passed"}


def test_both_kinds_survive_json():
    rank = said(3, Verdict.FAILED, messages=("a",), sketches=({"token": 1},), members={"x": "y"})
    assert RankResult.from_json(rank.to_json()) == rank
    case = CaseResult(
        case_id="a", verdict=Verdict.HUNG, messages=("b",), log="logs/a.txt", sketches=({},)
    )
    assert CaseResult.from_json(case.to_json()) == case
