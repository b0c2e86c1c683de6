"""A cause is said only if the calls of all ranks with the same first wrong stage agree with it."""

from __future__ import annotations

from typing import Any

from harness.record.agreed_causes import agreed, kind_of
from harness.record.diagnosis import (
    STAGE_INTERVAL,
    CallDiagnosis,
    Diagnosis,
    NamedCause,
    Pattern,
    StageFinding,
)

FACTOR = "in stage gemm1 the values of expert 2 are 1.5 times what they should be"


def cause(text: str = FACTOR, name: str = "which_factor") -> NamedCause:
    return NamedCause(name=name, cause=text, residual=0.01)


def call(number: int, bad: int, *causes: NamedCause, stage: str = "gemm1", **more: Any) -> Any:
    finding = StageFinding(stage=stage, text="differs", bad=bad, of=100, where={})
    fields = {"output": True, **more}
    return CallDiagnosis(call=number, stages=(finding,), causes=causes, tried=9, **fields)


def said(*ranks: list[CallDiagnosis]) -> list[list[list[str]]]:
    """The causes of each call of each rank."""
    diagnoses = [
        Diagnosis(rank=rank, failed=tuple(c.call for c in calls), of=2, calls=tuple(calls))
        for rank, calls in enumerate(ranks)
    ]
    return [[[c.cause for c in call.causes] for call in d.calls] for d in agreed(diagnoses)]


def test_a_cause_stays_if_few_wrong_values_are_without_it():
    assert said([call(0, 10, cause()), call(1, 5)]) == [[[FACTOR], []]]
    assert said([call(0, 10, cause())], [call(0, 5)]) == [[[FACTOR]], [[]]]


def test_a_cause_that_others_contradict_is_none():
    assert said([call(0, 10, cause()), call(1, 6)]) == [[[], []]]
    assert said([call(0, 10, cause())], [call(0, 6)]) == [[[]], [[]]]
    calls = (call(0, 1, cause()), call(1, 2))
    (diagnosis,) = agreed([Diagnosis(rank=0, failed=(0, 1), of=2, calls=calls)])
    assert [call.contradicted for call in diagnosis.calls] == [(cause(),), ()]


def test_two_causes_that_contradict_each_other_are_not_both_said():
    other = cause(
        "in stage gemm1 each wrong row holds the values of the row 1 before it", "stage_moved"
    )
    assert said([call(0, 9, cause()), call(1, 5, other)]) == [[[], []]]
    assert said([call(0, 9, cause()), call(1, 1, other)]) == [[[FACTOR], []]]


def test_numbers_may_differ_from_call_to_call():
    again = FACTOR.replace("1.5", "1.25e-05").replace("expert 2", "expert 0")
    assert kind_of(cause()) == kind_of(cause(again))
    same = cause(again.replace(" are", " (the same: odd rows) are"))
    assert kind_of(same) == kind_of(cause())
    assert said([call(0, 3, cause())], [call(0, 9, cause(again))]) == [[[FACTOR]], [[again]]]


def test_calls_with_another_first_wrong_stage_say_nothing_about_a_cause():
    later = call(0, 99, stage="combine")
    output_only = CallDiagnosis(call=1, tried=9)
    not_examined = CallDiagnosis(call=1, fault="ValueError: x")
    for other in (later, output_only, not_examined):
        assert said([call(0, 1, cause())], [other])[0] == [[FACTOR]]


def test_what_fits_an_output_must_agree_with_calls_whose_wrong_stage_is_known():
    dropped = (cause("a share was dropped", "dropped"),)
    output_only = CallDiagnosis(call=1, tried=9, output=True, causes=dropped)
    assert said([call(0, 9, cause()), output_only]) == [[[FACTOR], []]]
    assert said([call(0, 9, cause(), output=False), output_only])[0][1] == ["a share was dropped"]
    both = call(0, 9, cause("a share was dropped", "dropped"))
    assert said([both, output_only]) == [[["a share was dropped"], ["a share was dropped"]]]


def test_calls_that_agree_on_what_happens_but_not_to_which_values_say_that_alone():
    head = "in stage gemm1 the products of"
    one = cause(f"{head} odd gathered rows count with the wrong sign", "which_shares")
    other = cause(f"{head} slot 1 count with the wrong sign", "which_shares")
    some = "in stage gemm1 some products count with the wrong sign"
    weak = f"{some}; which ones, calls or ranks differ about"
    assert said([call(0, 9, one), call(1, 5, other)]) == [[[weak], [weak]]]
    assert said([call(0, 9, one), call(1, 5)]) == [[[], []]]


def test_a_known_mistake_that_leaves_the_same_out_agrees_with_a_statement():
    statement = cause("the shares of local expert 0 are left out", "which_shares")
    mistake = cause("an expert's share was dropped (expert 4)", "dropped")
    assert said([call(0, 9, statement), call(1, 9, mistake)]) == [
        [
            ["the shares of local expert 0 are left out"],
            ["an expert's share was dropped (expert 4)"],
        ]
    ]
    other = cause("the shares of slot 1 count twice", "which_shares")
    assert said([call(0, 9, other), call(1, 9, mistake)]) == [[[], []]]


def test_where_the_causes_contradict_each_other_a_weaker_one_that_all_have_is_said():
    weak = cause("each wrong row is the sum of its right shares by factors, 0 to 2", "which_shares")
    one = cause("the rank's first expert was subtracted twice", "subtracted")
    calls = [call(0, 9, one, weaker=(weak,)), call(1, 9, weaker=(weak,))]
    assert said(calls)[0][0] == [weak.cause]
    assert said([calls[0], call(1, 9)])[0][0] == []
    assert said([call(0, 9, one, weaker=(weak,)), call(1, 9, one)]) == [[[one.cause], [one.cause]]]


def test_a_statement_is_not_contradicted_by_a_call_in_which_none_was_sought():
    """Where a known mistake gives the output, no statement about a stage is sought."""
    mistake = cause("the scales of w13 are missing", "w13_scale_missing")
    calls = [call(0, 9, cause()), call(1, 9, mistake)]
    assert said(calls)[0][0] == [FACTOR]
    assert said([call(0, 9, cause()), call(1, 9)])[0][0] == []


def test_ranks_whose_output_is_right_do_not_contradict_what_explains_an_output():
    """Rank 0 sees the wrong weights that all ranks gathered, and its own are right."""
    first_rank = cause("each rank has the weights of the first one", "first_rank_weights")
    wrong = call(1, 9, first_rank)
    assert said([call(1, 9, output=False)], [wrong]) == [[[]], [[first_rank.cause]]]
    assert said([call(1, 9)], [wrong]) == [[[]], [[]]]


def test_what_all_calls_of_a_rank_name_stands_whatever_other_ranks_say():
    zeros = cause("the output is zeros", "zeros")
    other = [call(0, 99), call(1, 99)]
    assert said([call(0, 1, zeros), call(1, 1, zeros)], other)[0] == [[zeros.cause]] * 2
    assert said([call(0, 1, zeros), call(1, 1)], other)[0] == [[], []]
    assert said([call(0, 1, zeros)], other)[0] == [[]]


def test_rows_that_moved_may_be_others_in_each_call():
    one, other = (cause(text, "rows_moved") for text in ("row 0 that of row 4", "each the next"))
    assert said([call(0, 5, one), call(1, 9, other)]) == [[[one.cause], [other.cause]]]


def test_where_the_first_wrong_stage_may_be_is_not_said_beside_the_one_that_is_known():
    may_be, rows = (Pattern(name=name, text="x") for name in (STAGE_INTERVAL, "all_rows"))
    unknown = CallDiagnosis(call=0, output=True, patterns=(may_be, rows))

    def patterns(*calls: CallDiagnosis) -> list[str]:
        one = Diagnosis(rank=0, failed=(0, 1), of=2, calls=calls)
        return [pattern.name for pattern in agreed([one])[0].calls[0].patterns]

    assert patterns(unknown, call(1, 5, stage="shared")) == ["all_rows"]
    assert patterns(unknown, CallDiagnosis(call=1, output=True)) == [STAGE_INTERVAL, "all_rows"]


def sure_call(number: int, bad: int, *causes: NamedCause, rows: int = 4) -> Any:
    finding = StageFinding(
        stage="gemm1", text="differs", bad=bad, of=100, where={"rows": list(range(rows))}
    )
    return CallDiagnosis(call=number, stages=(finding,), causes=causes, tried=9, output=True)


def test_a_statement_about_enough_rows_stands_beside_calls_without_any():
    assert said([sure_call(0, 10, cause()), call(1, 99)]) == [[[FACTOR], []]]
    assert said([sure_call(0, 10, cause(), rows=3), call(1, 99)]) == [[[], []]]
    another = cause("in stage gemm1 some elements are zero", "which_elements")
    assert said([sure_call(0, 10, cause()), call(1, 99, another)])[0][0] == []
    loose = NamedCause(name="which_factor", cause=FACTOR, residual=0.2)
    assert said([sure_call(0, 10, loose), call(1, 99)]) == [[[], []]]


def test_one_wrong_row_of_an_unknown_stage_is_no_reason_to_name_a_mistake():
    """The call whose first wrong stage is known has one wrong row, which fits by chance."""
    chance = cause("the first zero expert's tokens were not added", "zero_first")
    known, unknown = call(1, 9, chance, stage="out"), CallDiagnosis(call=0, tried=9, output=True)
    assert said([unknown, known]) == [[[], []]]


def test_all_that_the_conditions_differ_about_is_left_out():
    head = "in stage gemm1"
    one = cause(
        f"{head} most values are off by another factor for each row, as by a wrong scale: 1 to 2"
    )
    other = cause(
        f"{head} the values of rows 1, 3, 4 are off by another factor for each row, as by a wrong "
        "scale: 0.5 to 3"
    )
    texts = said([call(0, 9, one), call(1, 9, other)])[0]
    assert [text[0].partition(":")[0] for text in texts] == [
        f"{head} some values are off by another factor for each row, as by a wrong scale"
    ] * 2


def test_rows_that_come_from_the_same_distance_are_one_statement():
    of_stage = cause(
        "in stage finalize each wrong row holds the values of the row before it", "stage_moved"
    )
    of_output = cause("the shares of slots 0-1 are those of the row before it", "moved_shares")
    second = call(1, 17, of_stage, stage="finalize")
    first = CallDiagnosis(call=0, tried=9, output=True, causes=(of_output,))
    assert said([first, second]) == [[[of_output.cause], [of_stage.cause]]]
    other = cause("the shares of slots 0-1 are those of the row 2 before it", "moved_shares")
    assert said([CallDiagnosis(call=0, tried=9, output=True, causes=(other,)), second])[0][0] == []
