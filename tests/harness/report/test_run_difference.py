"""The difference of two runs: verdicts, refusals, and seconds beyond their noise."""

import dataclasses

from harness.record.cross_case import Sketch, first_difference
from harness.record.result import CaseResult, Verdict
from harness.record.run_info import RefusedCase
from harness.report.run_difference import SHOWN, closing_line, console, difference
from harness.report.tables import view


def run(folder, verdicts, refused=(), seconds=()):
    times = dict(seconds)
    results = tuple(
        CaseResult(case_id=case_id, verdict=Verdict(verdict), seconds=times.get(case_id, 1.0))
        for case_id, verdict in verdicts.items()
    )
    points = tuple(RefusedCase(case=case, code="gone", text="x") for case in refused)
    return dataclasses.replace(view(folder), results=results, refused=points)


def test_each_kind_of_change(folder):
    before = {"a": "passed", "b": "failed", "c": "failed", "d": "passed", "e": "passed"}
    before |= {"f": "passed", "g": "not_run"}
    after = {"a": "hung", "b": "passed", "c": "error", "e": "not_run", "h": "failed"}
    changes = difference(run(folder, before), run(folder, after, refused=["d"]))
    assert changes.newly_failing == ("a  passed -> hung", "h  new -> failed")
    assert changes.fixed == ("b  failed -> passed",)
    assert changes.still_failing == ("c  failed -> error",)
    assert changes.no_longer_run == (
        "d  passed -> skipped: gone",
        "e  passed -> not_run",
        "f  passed -> not in the run",
    )
    assert changes.is_worse
    assert changes.ratio is None


def test_equal_runs_are_not_worse(folder):
    same = run(folder, {"a": "passed", "b": "failed"})
    changes = difference(same, same)
    assert not changes.is_worse
    assert closing_line(changes).startswith(
        "newly_failing=0 no_longer_run=0 outputs_differ=0 fixed=0 still_failing=1"
    )


def test_a_case_is_slower_only_beyond_the_machines_ratio_and_noise(folder):
    cases = [f"c{i}" for i in range(20)]
    verdicts = dict.fromkeys(cases, "passed")
    before = {case: 1.0 + 0.02 * i for i, case in enumerate(cases)}
    after = {
        case: 2.0 * seconds * (1 + 0.03 * (i % 5 - 2))
        for i, (case, seconds) in enumerate(before.items())
    }
    after["c3"] *= 1.25  # within the least ratio
    after["c7"] *= 2.0
    changes = difference(
        run(folder, verdicts, seconds=before.items()), run(folder, verdicts, seconds=after.items())
    )
    assert [line.split()[0] for line in changes.slower] == ["c7"]
    assert 1.9 < changes.ratio < 2.1
    noisy = {
        case: seconds * (4.0 if i % 2 else 1.0) for i, (case, seconds) in enumerate(before.items())
    }
    changes = difference(
        run(folder, verdicts, seconds=before.items()), run(folder, verdicts, seconds=noisy.items())
    )
    assert changes.slower == ()


def test_outputs_of_cases_that_passed_in_both_runs_are_compared(folder):
    verdicts = {"a": "passed", "b": "passed", "c": "failed", "d": "passed"}
    rows = {"a": (1.0, 1.05), "b": (1.0, 2.0), "c": (1.0, 2.0)}
    before, after = (with_rows(run(folder, verdicts), rows, number) for number in (0, 1))
    changes = difference(before, after)
    assert changes.outputs_differ == ("b  token 3: outputs differ by 1, rounding explains 0.283",)
    assert changes.is_worse
    assert changes.compared == 2, "neither what failed nor what stored no row"
    assert " outputs_differ=1 " in closing_line(changes)
    assert "outputs differ\n  b  token 3" in console(changes)
    assert not difference(before, before).is_worse


def test_tokens_that_only_one_run_has_are_not_compared():
    results = [
        CaseResult(case_id="a", verdict=Verdict.PASSED, sketches=(sketch(t, first).to_json(),))
        for t, first in ((0, 1.0), (1, 9.0))
    ]
    assert first_difference(*results) is None


def test_outputs_of_other_seeds_are_not_compared(folder):
    before = with_rows(run(folder, {"b": "passed"}), {"b": (1.0, 2.0)}, 0)
    after = with_rows(run(folder, {"b": "passed"}), {"b": (1.0, 2.0)}, 1)
    assert difference(before, after).outputs_differ
    other = tuple(dataclasses.replace(result, seed=1) for result in after.results)
    assert not difference(before, dataclasses.replace(after, results=other)).outputs_differ


def with_rows(viewed, rows, number):
    """The run with a stored row of these cases; `number` chooses its first value."""
    results = tuple(
        dataclasses.replace(r, sketches=(sketch(3, rows[r.case_id][number]).to_json(),))
        if r.case_id in rows
        else r
        for r in viewed.results
    )
    return dataclasses.replace(viewed, results=results)


def sketch(token, first):
    return Sketch(token=token, values=(first, 2.0, 0.0), slack=0.1)


def test_long_lists_are_cut_and_counted(folder):
    many = {f"c{i}": "failed" for i in range(SHOWN + 3)}
    text = console(difference(run(folder, {}), run(folder, many)))
    assert "... 3 more" in text
