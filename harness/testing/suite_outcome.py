"""See to it that a pytest run with a suite fails if it tested nothing.

pytest itself passes a run in which every test was skipped. Registered in the main process only,
which gets the reports of all of xdist's workers.
"""

from __future__ import annotations

import pytest

from harness.testing.case_items import CASE

EMPTY = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


class SuiteOutcome:
    """Count the cases that ran, and end the session with 5 if there were none."""

    def __init__(self, suite: str) -> None:
        self.suite = suite
        self.ran: set[str] = set()  # node ids
        self.skipped: set[str] = set()
        self.is_empty = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a case that ran to an outcome of its own, or was skipped."""
        if CASE not in dict(report.user_properties):
            return
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped.add(report.nodeid)
        elif report.when == "call" or report.failed:
            self.ran.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Set the exit status of a session in which no case ran."""
        only_listed = session.config.getoption("collectonly")
        if session.exitstatus in EMPTY and not self.ran and not only_listed:
            self.is_empty = True
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why the run fails."""
        if self.is_empty:
            count = len(self.skipped)
            text = f"all {count} case(s) were skipped; -rs shows why" if count else "none selected"
            terminalreporter.line(f"ERROR: no case of suite {self.suite!r} ran: {text}", red=True)
