"""What the fuzzer prints of its cases: failures in full, vacuous ones by name, passed ones not."""

import pytest

from harness.commands import fuzz_report
from harness.record.result import CaseResult, Verdict


def result(verdict, case_id="a", messages=("x", "y")):
    return CaseResult(case_id=case_id, verdict=verdict, seconds=1.5, messages=messages)


@pytest.mark.parametrize(
    ("verdict", "verbose", "lines"),
    [
        (Verdict.PASSED, False, []),
        (Verdict.PASSED, True, ["passed      1.50s  a"]),
        (Verdict.VACUOUS, False, ["vacuous: a: x; y"]),
    ],
)
def test_a_case_that_is_no_failure_is_short(verdict, verbose, lines, tmp_path):
    assert fuzz_report.case_lines(result(verdict), tmp_path, verbose=verbose) == lines


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.HUNG, Verdict.NOT_RUN])
def test_a_case_that_did_not_pass_is_shown_with_its_messages(verdict, tmp_path):
    head, *rest = fuzz_report.case_lines(result(verdict), tmp_path, verbose=False)
    assert head == f"{verdict:<8}    1.50s  a"
    assert [line.strip() for line in rest[:2]] == ["x", "y"]


def test_the_smallest_case_comes_after_the_number_of_runs(tmp_path):
    head, case, *_ = fuzz_report.smallest_lines(result(Verdict.FAILED), 7, tmp_path)
    assert head == "smallest case after 7 more runs; it fails alone, in a fresh gang:"
    assert case == "failed      1.50s  a"


@pytest.mark.parametrize(
    ("verdict", "earlier", "text"),
    [
        (Verdict.PASSED, (), "a passes alone: it is not repeatable"),
        (
            Verdict.PASSED,
            ("b", "c"),
            "a passes alone: it depends on what ran before it in its gang: b c",
        ),
        (
            Verdict.CRASHED,
            ("b",),
            "a ends as crashed alone: it depends on what ran before it in its gang: b",
        ),
    ],
)
def test_a_case_that_ends_otherwise_alone_is_told_with_those_before_it(verdict, earlier, text):
    assert fuzz_report.dependent_line(result(verdict), earlier) == text


@pytest.mark.parametrize(
    ("verdicts", "line"),
    [
        ([], "0 distinct cases, 0 of them bad"),
        (["passed", "failed", "hung"], "3 distinct cases, 2 of them bad"),
        (["passed", "vacuous"], "2 distinct cases, 0 of them bad, 1 vacuous"),
        (["infra", "not_run", "flaky"], "3 distinct cases, 1 of them bad"),
    ],
)
def test_vacuous_cases_are_counted_and_not_bad(verdicts, line):
    assert fuzz_report.totals_line([result(Verdict(v)) for v in verdicts]) == line
