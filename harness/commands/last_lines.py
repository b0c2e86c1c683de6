"""Format a run's last lines before its summary, in case the counts alone look like a pass."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

from harness.errors import ExitCode
from harness.matrix.case import MoETestConfig
from harness.record.result import Verdict
from moe.layers import COMPOSED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.plan.plan import Plan
    from harness.record.result import CaseResult
    from harness.record.run_folder import RunFolder
    from harness.record.summary import Summary

_REASONS = 3  # number of reasons that are named


def mostly_refused(plan: Plan) -> list[str]:
    """Return a warning if the plan refused more points than it runs, with the reasons."""
    if len(plan.refused) <= len(plan.cases):
        return []
    total = len(plan.refused) + len(plan.cases)
    codes = plan.refused.counts().most_common(_REASONS)
    reasons = ", ".join(f"{code} ({count})" for code, count in codes)
    return [
        f"warning: {len(plan.refused)} of {total} points were refused on "
        f"{plan.machine.platform.name}, mostly for {reasons}",
        "    to end with 75 if the machine lacks something: "
        "--require PLATFORM, devices=N or experts=NAME",
    ]


def refused_by_id(summary: Summary) -> list[str]:
    """Return a line if cases were asked for by id and cannot run here: then nothing passed."""
    if not summary.refused_by_id:
        return []
    return [
        f"{summary.refused_by_id} case(s) were named and cannot run here (reasons above), so the "
        "exit code is not 0: leave them out, or `explain --case ID`"
    ]


def assumed_numerics(results: Iterable[CaseResult]) -> list[str]:
    """Return a line for each subject whose row states no numerics, and how to find them."""
    assumed = [result.case_id for result in results if result.assumed is not None]
    options = Counter(MoETestConfig.from_id(case_id).subject_option for case_id in assumed)
    return [
        f"numerics: assumed in {count} case(s) of {option.partition(' ')[2]}; to pin them down: "
        f"python -m harness numerics {option}"
        for option, count in options.items()
    ]


def assumed_roundings(results: Iterable[CaseResult]) -> list[str]:
    """Return a line for each router whose row states no roundings, and which made it right.

    A whole layer states those of the router inside it.
    """
    pairs = Counter(
        (_routing_row(MoETestConfig.from_id(result.case_id)), result.router_assumed)
        for result in results
        if result.router_assumed is not None
    )
    return [
        f"routing: {router} is right in {count} case(s) if it may round; its row can say so: "
        f"rounding={roundings}"
        for (router, roundings), count in pairs.items()
    ]


def _routing_row(case: MoETestConfig) -> str:
    return case.router if case.layer == COMPOSED else case.layer


def not_run(
    summary: Summary, *, fail_fast: bool, out_of_time: bool = False, recorded: bool = False
) -> list[str]:
    """Return why cases did not run, `-x` or a time budget, in one line, or nothing.

    recorded: whether estimates are those of an earlier run, by --durations-from.
    """
    count = summary.counts.get(Verdict.NOT_RUN, 0)
    if count and fail_fast:
        return [f"{count} case(s) did not run: -x stops at the first failure"]
    if count and out_of_time:
        way_out = "give it more time" if recorded else "--durations-from gives better estimates"
        text = f"the time budget is over; {way_out}"
        return [f"{count} case(s) that were chosen did not run: {text}"]
    return []


def code_with_record(code: int, folder: RunFolder) -> int:
    """Return the exit code of a run, or 75 if it would hide that its record has gaps."""
    if folder.lost is None or code not in (ExitCode.PASSED, ExitCode.INCOMPLETE):
        return code
    print(
        f"the record in {str(folder.path)!r} is incomplete: {folder.lost}; exit code "
        f"{int(ExitCode.INFRASTRUCTURE)} instead of {int(code)}; "
        "make room or give --out another folder, and run again",
        file=sys.stderr,
    )
    return ExitCode.INFRASTRUCTURE
