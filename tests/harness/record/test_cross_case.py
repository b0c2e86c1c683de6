"""Comparing outputs across cases, with no reference between them."""

from __future__ import annotations

import dataclasses

from harness.matrix.case import MoETestConfig
from harness.record.cross_case import Agreement, Sketch, compared, content_key
from harness.record.events import CaseEnded, CaseStarted, Event
from harness.record.result import CaseResult, Verdict

CASE = MoETestConfig(m=8, n=64, k=64, num_experts=8, top_k=2, experts="torch_loop")
OTHER = CASE.replace(experts="triton", dp_size=2, use_ep=True, m=4, tokens="ragged")


def sketch(token: int, first: float, slack: float = 0.1) -> Sketch:
    return Sketch(token=token, values=(first, 2.0, 0.0), slack=slack)


def test_layout_members_and_token_counts_do_not_matter_to_content() -> None:
    assert content_key(CASE) == content_key(OTHER)
    for field, value in (("seed", 1), ("quant", "fp8_block"), ("top_k", 1), ("shared_experts", 1)):
        assert content_key(CASE) != content_key(CASE.replace(**{field: value}))


def test_the_same_rows_agree() -> None:
    seen = Agreement()
    assert seen.check(CASE, [sketch(0, 1.0), sketch(1, 3.0)]) == []
    assert seen.check(OTHER, [sketch(1, 3.05), sketch(64, 9.0)]) == []


def test_a_difference_names_the_other_case_and_the_token() -> None:
    seen = Agreement()
    seen.check(CASE, [sketch(0, 1.0), sketch(1, 3.0)])
    (text,) = seen.check(OTHER, [sketch(0, 1.0), sketch(1, 4.0)])
    assert text == (
        f"disagrees with {CASE.id} on token 1: outputs differ by 1, rounding explains 0.283"
    )


def test_other_content_is_not_compared() -> None:
    seen = Agreement()
    seen.check(CASE, [sketch(0, 1.0)])
    assert seen.check(CASE.replace(seed=1), [sketch(0, 50.0)]) == []


def test_sketches_survive_json() -> None:
    assert Sketch.from_json(sketch(3, 0.5).to_json()) == sketch(3, 0.5)


def ended(case: MoETestConfig, first: float, verdict: Verdict = Verdict.PASSED) -> CaseEnded:
    sketches = (sketch(0, first).to_json(),)
    result = CaseResult(case_id=case.id, verdict=verdict, sketches=sketches)
    return CaseEnded(time=0.0, gang=1, result=result)


def verdicts(events: list[Event], before: list[Event]) -> list[str]:
    found = compared(iter(events), before)
    return [str(e.result.verdict) for e in found if isinstance(e, CaseEnded)]


def test_a_passed_case_that_disagrees_has_failed() -> None:
    started = CaseStarted(time=0.0, case_id=CASE.id, gang=1)
    assert list(compared([started])) == [started]
    assert verdicts([ended(CASE, 1.0), ended(OTHER, 2.0)], []) == ["passed", "failed"]
    assert verdicts([ended(CASE, 1.0), ended(OTHER, 1.0)], []) == ["passed", "passed"]


def test_a_resumed_run_compares_with_what_ran_before() -> None:
    assert verdicts([ended(OTHER, 2.0)], [ended(CASE, 1.0)]) == ["failed"]


def test_only_passed_cases_are_compared() -> None:
    events = [ended(CASE, 1.0, Verdict.FAILED), ended(OTHER, 2.0)]
    assert verdicts(list(events), []) == ["failed", "passed"]


def test_what_was_judged_with_another_seed_is_compared_with_cases_of_that_seed() -> None:
    other = ended(OTHER, 50.0)
    judged = CaseEnded(time=0.0, gang=1, result=dataclasses.replace(other.result, seed=1))
    assert verdicts([ended(CASE, 1.0), judged], before=[]) == ["passed", "passed"]
    assert verdicts([ended(CASE.replace(seed=1), 1.0), judged], before=[]) == ["passed", "failed"]
