"""What failed cases share is said where it tells them from those that passed."""

from __future__ import annotations

import pytest

from harness.record.result import CaseResult, Verdict
from harness.report.common_failures import lines, shared_words

SIZES = "m:8-n:128-k:128-e:4-topk:2-experts:triton"
FP8 = [f"{SIZES}-quant:fp8_block{end}" for end in ("", "-tp:2", "-dp:2-ep")]
OTHERS = [f"{SIZES}-quant:int8_channel{end}" for end in ("", "-tp:2", "-dp:2-ep")]


def results(failed, passed, message="rank 0: 3 of 8 rows are wrong", verdict=Verdict.FAILED):
    return [
        *(CaseResult(case_id=i, verdict=verdict, messages=(message,)) for i in failed),
        *(CaseResult(case_id=i, verdict=Verdict.PASSED) for i in passed),
    ]


def test_one_word_that_tells_all_failed_cases():
    assert lines(results(FP8, OTHERS)) == [
        "failed are all 3 cases with `quant:fp8_block`, and no other",
        "in all: rank 0: 3 of 8 rows are wrong",
    ]


def test_words_that_only_together_tell_them():
    ids = [f"{SIZES}{a}{b}" for a in ("", "-quant:fp8_block") for b in ("", "-tp:2", "-tp:4")]
    failed = {i for i in ids if i.endswith("-quant:fp8_block-tp:2")}
    assert shared_words(ids, failed) == (("quant:fp8_block", "tp:2"), 1) or shared_words(
        ids, failed
    ) == (("tp:2", "quant:fp8_block"), 1)


def test_failed_cases_among_others_with_the_same_word():
    seeds = [f"{SIZES}-quant:fp8_block-seed:{seed}" for seed in range(5)]
    text = "all 3 failed cases have `quant:fp8_block`, as have 5 cases that ran"
    assert lines(results(seeds[:3], seeds[3:] + OTHERS + [SIZES]))[0] == text


def test_what_all_cases_have_tells_nothing():
    said = lines(results([FP8[0], OTHERS[1], OTHERS[2]], [FP8[1], FP8[2], OTHERS[0]]))
    assert said == ["in all: rank 0: 3 of 8 rows are wrong"]


@pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.CRASHED, Verdict.HUNG])
def test_other_ends_count_and_numbers_are_no_difference(verdict):
    ended = results(FP8, OTHERS, verdict=verdict)
    ended[1] = CaseResult(
        case_id=FP8[1], verdict=verdict, messages=("rank 0: 5 of 7 rows are wrong",)
    )
    ended[2] = CaseResult(case_id=FP8[2], verdict=verdict, messages=("another",))
    assert lines(ended)[1:] == ["in 2 of 3: rank 0: 3 of 8 rows are wrong"]


def test_of_few_failures_and_refused_cases_nothing_is_said():
    assert lines(results(FP8[:2], OTHERS)) == []
    skipped = [CaseResult(case_id=i, verdict=Verdict.SKIPPED) for i in OTHERS]
    assert lines([*results(FP8, []), *skipped]) == ["in all: rank 0: 3 of 8 rows are wrong"]
