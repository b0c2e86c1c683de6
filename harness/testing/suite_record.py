"""Write the run folder of a pytest run with a suite: `--moe-out DIR`. No torch.

The process that runs a case adds its result to the test's report, which xdist sends to the main
process; there it is recorded, as `run` would. A case without a result is not run: of a worker that
died, of a slot that was not to be had, or because the session ended first.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from harness.errors import HarnessError
from harness.plan.manifest import describe
from harness.record.events import CaseEnded, RunEnded, RunStarted
from harness.record.result import CaseResult
from harness.record.run_folder import RunFolder
from harness.record.summary import summarize
from harness.testing.case_items import CaseItem
from harness.testing.suite_cases import planned

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from pathlib import Path

    from harness.plan.plan import Plan
    from harness.testing.suite_cases import SuiteOptions

RESULT = "moe_result"  # attribute of a report: the case's result as JSON
_NODE = re.compile(r"::world\d+::(?P<case>[^:].*)\Z")


class ResultSender:
    """Add the result of each case to its report; registered in every process."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Return the report, with a result if the case has one."""
        report = yield
        if call.when == "call" and isinstance(item, CaseItem) and item.result is not None:
            setattr(report, RESULT, json.dumps(item.result.to_json()))
        return report


class SuiteRecord:
    """Write a run folder; registered in the main process. path: of the folder, not there yet."""

    def __init__(
        self, options: SuiteOptions, lines: Mapping[str, int], path: Path, argv: list[str]
    ) -> None:
        """lines: as of `suite_cases.points_of`."""
        self._options, self._lines, self._path, self._argv = options, lines, path, argv
        self._began = time.time()
        self._folder: RunFolder | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Create the folder before the first case, if this process runs them itself.

        It is not made when the cases are known: `-m` with an error ends the session after that.
        """
        config = session.config
        only_listed = config.getoption("collectonly") or config.pluginmanager.has_plugin("dsession")
        stops = session.testsfailed and not config.getoption("continue_on_collection_errors")
        if not (only_listed or stops):
            self._create(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Create the folder once the first of xdist's workers knows the cases; all know the same.

        No worker runs a test before all of them have said so.
        """
        self._create(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the result of a case."""
        text = getattr(report, RESULT, None)
        if text is not None and self._folder is not None:
            result = CaseResult.from_json(json.loads(text))
            self._folder.append(CaseEnded(time=time.time(), gang=0, result=result))

    def pytest_sessionfinish(self) -> None:
        """Count the verdicts, and close the record; a run with cases left gets no `RunEnded`."""
        folder, self._folder = self._folder, None
        if folder is None:
            return
        info, seconds = folder.info, time.time() - self._began
        counts = summarize(list(info.cases), len(info.refused), folder.results, seconds).to_json()
        if not counts["not_run"]:
            verdicts = {name: count for name, count in counts.items() if name != "seconds"}
            folder.append(RunEnded(time=time.time(), seconds=seconds, counts=verdicts))
        folder.write_summary(counts)
        folder.close()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where the folder is."""
        if (self._path / "run.json").is_file():
            terminalreporter.line(f"run folder: {self._path}; python -m harness report shows it")

    def _create(self, node_ids: Iterable[str]) -> None:
        """Create the folder for the cases among these tests; none if there are no cases."""
        matches = map(_NODE.search, node_ids)
        case_ids = {match["case"] for match in matches if match is not None}
        if self._folder is not None or not case_ids:
            return
        suite = planned(self._options, self._lines)
        info = describe(self._argv, suite.selection, _kept(suite.plan, case_ids))
        try:
            self._folder = RunFolder.create(self._path, info)
        except HarnessError as error:
            raise pytest.UsageError(f"--moe-out: {error}") from error
        self._folder.append(RunStarted(time=self._began, cases=list(info.cases)))


def _kept(plan: Plan, case_ids: set[str]) -> Plan:
    """Return the plan with the cases and refusals that pytest selected."""
    refused = plan.refused.where(case_id in case_ids for case_id in plan.refused.cases.ids())
    return dataclasses.replace(plan.where(case_ids.__contains__), refused=refused)
