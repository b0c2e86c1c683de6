"""The annotation of a build: what it says, and Buildkite's limits."""

import dataclasses

from harness.record.result import CaseResult, Verdict
from harness.record.summary import Summary
from harness.report import annotation
from harness.report.tables import view
from tests.harness.report.stored_run import CASES


def test_failures_come_first_and_everything_fits(folder):
    run = view(folder)
    text = annotation.of_run(run)
    assert text.startswith(f"#### {run.info.suite} on cpu")
    assert run.summary.line() in text
    assert text.index(f"failed {CASES[1]}") < text.index("skipped, by reason")
    assert "block_straddles_shard" in text
    assert "style=" not in text


def test_what_does_not_fit_is_counted(folder):
    many = tuple(
        CaseResult(case_id=f"{CASES[0]}-seed:{i}", verdict=Verdict.FAILED, messages=("é" * 500,))
        for i in range(5000)
    )
    run = dataclasses.replace(view(folder), results=many)
    text = annotation.of_run(run)
    assert 900_000 < len(text.encode()) <= annotation.MAX_BYTES
    shown = text.count("<summary>failed ")
    assert f"{5000 - shown} more did not pass" in text
    assert text.count("<details>") == text.count("</details>")
    small = annotation.of_run(run, max_bytes=3000)
    assert len(small.encode()) <= 3000
    assert run.summary.line() in small


def test_the_style_is_the_worst_that_happened():
    def style(**counts):
        return annotation.style(
            Summary(counts={Verdict(n): c for n, c in counts.items()}, seconds=1, cases=1)
        )

    assert style(passed=1, skipped=3) == "success"
    assert style(passed=1, flaky=1, infra=1) == "error"
    assert style(passed=1, infra=1) == style(not_run=1) == style(skipped=1) == "warning"


def test_an_error_is_quoted():
    text = annotation.of_error("moe", "shard 2 is missing\n```")
    assert "moe: no result" in text
    assert text.count("```") == 2
