"""The results of a case: as JSON, and with more messages."""

from harness.record.diagnosis import CallDiagnosis, Diagnosis
from harness.record.proof import Outcome, Proof
from harness.record.result import CaseResult, Finding, RankResult, Topic, Verdict


def test_both_kinds_survive_json():
    rank = RankResult(
        rank=3,
        verdict=Verdict.FAILED,
        findings=(Finding(check="output", text="a", topic=Topic.ROWS),),
        sketches=({"token": 1},),
        members={"x": "y"},
        versions={"x-kernels": "1.2"},
        battery=(Proof(name="zeros", outcome=Outcome.MISSED, explanation="a larger n"),),
        diagnosis=Diagnosis(rank=3, failed=(0,), of=2, calls=(CallDiagnosis(call=0),)),
    )
    assert RankResult.from_json(rank.to_json()) == rank
    case = CaseResult(
        case_id="a", verdict=Verdict.HUNG, messages=("b",), log="logs/a.txt", sketches=({},)
    )
    assert CaseResult.from_json(case.to_json()) == case


def test_more_messages_leave_the_others_their_numbers():
    result = CaseResult(
        case_id="a", verdict=Verdict.FAILED, messages=("x", "y"), leading=(0,), diagnosed=(1,)
    )
    more = result.with_messages(before=("b",), after=("c",))
    assert more.messages == ("b", "x", "y", "c")
    assert (more.leading, more.diagnosed) == ((1,), (2,))
