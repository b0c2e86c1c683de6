"""How the ranks' results become one verdict: every rank counts, the worst decides."""

import itertools

import pytest

from harness.record.diagnosis import CallDiagnosis, Diagnosis
from harness.record.rank_merge import merge
from harness.record.result import SEVERITY, CaseResult, Finding, RankResult, Topic, Verdict


def said(rank, verdict=Verdict.PASSED, **more):
    return RankResult(rank=rank, verdict=verdict, **more)


def findings(*texts, **more):
    return tuple(Finding(check="output", text=text, **more) for text in texts)


def test_passed_needs_every_rank():
    assert merge("a", 2, [said(0), said(1)], 1.0).verdict is Verdict.PASSED


def test_a_silent_rank_is_an_error():
    result = merge("a", 3, [said(0), said(2)], 1.0)
    assert result.verdict is Verdict.ERROR
    assert result.messages == ("rank 1: sent no result",)


@pytest.mark.parametrize(("worse", "better"), [*itertools.combinations(SEVERITY, 2)])
def test_the_worse_verdict_decides_whatever_the_order(worse, better):
    for pair in ((worse, better), (better, worse)):
        ranks = [said(rank, verdict) for rank, verdict in enumerate(pair)]
        assert merge("a", 2, ranks, 0.0).verdict is worse


def test_equal_messages_come_once_with_their_ranks():
    ranks = [said(1, findings=findings("x", "y")), said(0, findings=findings("x"))]
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


def test_versions_are_those_of_all_ranks():
    ranks = [said(0, versions={"a": "1"}), said(1, versions={"b": "2"})]
    assert merge("a", 2, ranks, 0.0).versions == {"a": "1", "b": "2"}


def test_what_leads_comes_first_and_is_numbered():
    ranks = [
        said(0, Verdict.FAILED, findings=findings("wrong")),
        said(1, Verdict.FAILED, findings=(*findings("wrong"), *findings("other", leads=True))),
    ]
    result = merge("a", 3, ranks, 0.0)
    assert result.messages == ("rank 2: sent no result", "rank 1: other", "rank 0,1: wrong")
    assert (result.leading, result.diagnosed) == ((1,), ())


def test_a_message_is_diagnosed_where_every_rank_that_says_it_explains_it():
    wrong = findings("wrong", topic=Topic.ROWS, call=1)
    told, other = (
        [Diagnosis(rank=rank, failed=(1,), of=2, calls=(call,)) for rank in (0, 1)]
        for call in (
            CallDiagnosis(call=1, covers=(Topic.ROWS,)),
            CallDiagnosis(call=1, fault="no time"),
        )
    )
    ranks = [said(0, findings=wrong, diagnosis=told[0]), said(1, findings=wrong, diagnosis=told[1])]
    assert merge("a", 2, ranks, 0.0).diagnosed == (0,)
    ranks[1] = said(1, findings=wrong, diagnosis=other[1])
    result = merge("a", 2, ranks, 0.0)
    assert result.messages == ("rank 0: wrong", "rank 1: wrong")
    assert result.diagnosed == (0,)


def test_assumed_numerics_are_kept_and_older_records_have_none():
    ranks = [said(0), said(1, assumed='Numerics(gemm1="f32")')]
    data = merge("a", 2, ranks, 0.0).to_json()
    assert CaseResult.from_json(data).assumed == 'Numerics(gemm1="f32")'
    del data["assumed"], data["router_assumed"]
    assert CaseResult.from_json(data).assumed is None


def test_the_roundings_that_were_assumed_of_a_router_are_kept():
    ranks = [said(0), said(1, router_assumed="RouterNumerics.as_torch()")]
    data = merge("a", 2, ranks, 0.0).to_json()
    assert CaseResult.from_json(data).router_assumed == "RouterNumerics.as_torch()"
