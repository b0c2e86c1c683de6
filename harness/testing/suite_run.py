"""Run the cases of a suite in one pytest process and give each its final result. No torch."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from harness.engine.other_seeds import FURTHER
from harness.engine.run_options import RunOptions
from harness.engine.single_cases import SingleCases
from harness.plan import machine
from harness.record.cross_case import Agreement, agreed
from harness.report import png
from harness.report.failure_text import LOGS
from harness.testing.suite_cases import planned
from harness.testing.worker_slot import devices_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.record.result import CaseResult
    from harness.testing.ranks_of_session import RanksOfSession
    from harness.testing.suite_cases import SuiteCase, SuiteCases, SuiteOptions


class SuiteRun:
    """The cases of a suite, and what runs them. folder: for logs of cases that do not pass."""

    def __init__(
        self,
        options: SuiteOptions,
        lines: Mapping[str, int],
        ranks: RanksOfSession,
        folder: Path,
        suite: SuiteCases | None = None,
    ) -> None:
        """lines: as of `suite_cases.points_of`. suite: the cases, if they are planned already."""
        self.options, self.folder = options, folder
        self._suite = suite
        self._lines, self._ranks = lines, ranks
        self._agreement = Agreement()

    @cached_property
    def suite(self) -> SuiteCases:
        """The cases. Raises ConfigError and UsageError."""
        return self._suite or planned(self.options, self._lines)

    def run(self, case: SuiteCase) -> CaseResult:
        """Return the result of a case that is not refused, as the known failures see it.

        Its output is compared with those of earlier cases in this process, if inputs are equal.
        Raises InfrastructureError if this process gets no slot.
        """
        assert case.job is not None
        ledger = self.suite.ledger
        lapsed = ledger.lapsed(case.case.id)
        if lapsed is not None:
            return lapsed
        result = self._cases.run(case.job, case.case)
        judged = ledger.judged(agreed(self._agreement, result))
        if judged.diagnoses:
            with suppress(OSError):  # a full disk loses no more than the picture
                png.save_experts(judged, self.folder / LOGS)
        return judged

    @cached_property
    def _cases(self) -> SingleCases:
        share = self.suite.machine.devices
        if share:
            self._ranks.keep_for_gpus()
        gangs = self._ranks.gangs
        total = self.options.devices or machine.detect().devices
        devices = devices_of(self._ranks.slot, share, total)
        return SingleCases(gangs, self._run_options(), devices, sharers=self.options.workers)

    def _run_options(self) -> RunOptions:
        selection, logs = self.suite.selection, self.folder / LOGS
        return RunOptions(
            log_dir=logs,
            retries=selection.retries,
            other_seeds=FURTHER,
            slots=self.suite.machine.slots,
            devices=self.suite.machine.devices,
            rank_options={
                "save_tensors": None,
                "plain_call": selection.plain_call,
                "pictures": str(logs.absolute()),
            },
        )
