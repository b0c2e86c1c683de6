"""A run with a suite fails if no case of it ran."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.testing.suite_outcome import SuiteOutcome


def report(when, outcome, node="m.yaml::ci::id", **more):
    """A report of a case, as pytest hands it to plugins."""
    flags = {"skipped": outcome == "skipped", "failed": outcome == "failed"}
    properties = [("moe_case", "id")]
    return SimpleNamespace(when=when, nodeid=node, user_properties=properties, **(flags | more))


def status_after(*reports, status=pytest.ExitCode.OK, listed=False):
    outcome = SuiteOutcome("ci")
    for each in reports:
        outcome.pytest_runtest_logreport(each)
    config = SimpleNamespace(getoption=lambda name: listed)
    session = SimpleNamespace(exitstatus=status, config=config)
    outcome.pytest_sessionfinish(session)
    lines = []
    terminal = SimpleNamespace(line=lambda text, **_: lines.append(text))
    outcome.pytest_terminal_summary(terminal)
    return session.exitstatus, lines


def test_a_case_that_ran_is_enough():
    passed = [report("setup", "passed"), report("call", "passed"), report("teardown", "passed")]
    assert status_after(*passed) == (pytest.ExitCode.OK, [])


def test_a_case_that_was_expected_to_fail_ran():
    assert status_after(report("call", "skipped", wasxfail="known")) == (pytest.ExitCode.OK, [])


def test_a_run_of_skips_fails():
    status, lines = status_after(report("setup", "skipped"), report("teardown", "passed"))
    assert status == pytest.ExitCode.NO_TESTS_COLLECTED
    assert lines == ["ERROR: no case of suite 'ci' ran: all 1 case(s) were skipped; -rs shows why"]


def test_other_tests_do_not_count():
    other = report("call", "passed")
    other.user_properties = []
    status, lines = status_after(other)
    assert status == pytest.ExitCode.NO_TESTS_COLLECTED
    assert lines == ["ERROR: no case of suite 'ci' ran: none selected"]


def test_a_run_that_failed_or_only_lists_keeps_its_status():
    failed = pytest.ExitCode.TESTS_FAILED
    assert status_after(status=failed) == (failed, [])
    assert status_after(listed=True) == (pytest.ExitCode.OK, [])
