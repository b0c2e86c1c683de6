"""Write the results of recorded workloads as traces of FlashInfer Trace, one JSON line each."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.matrix.case import MADE, MoETestConfig
from harness.record.result import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.matrix.traces.trace_format import TraceLine
    from harness.record.result import CaseResult
    from harness.record.run_info import RunInfo
    from harness.report.tables import View

# Verdicts that the format has a word for. Of the others nothing was found out about the numbers.
STATUS = {
    Verdict.PASSED: "PASSED",
    Verdict.FAILED: "INCORRECT_NUMERICAL",
    Verdict.ERROR: "RUNTIME_ERROR",
    Verdict.CRASHED: "RUNTIME_ERROR",
    Verdict.HUNG: "TIMEOUT",
}
NOT_A_BENCHMARK = (
    "latency_ms: all calls of the layer, with poisoned buffers and recorded stages; "
    "reference_latency_ms: the float32 reference with its noise. Not a benchmark."
)


def write(stored: View, path: Path) -> str:
    """Write a line for each result that the format has a word for; return what was written.

    Raises UsageError for a run without recorded workloads, and ConfigError for a data set that is
    no longer right.
    """
    lines = list(trace_lines(stored))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    left_out = len(stored.results) - len(lines)
    return f"{path}: {len(lines)} result(s), {left_out} without a status in the format left out"


def trace_lines(stored: View) -> Iterator[dict[str, Any]]:
    """Yield a trace for each result that has a status in the format."""
    workloads = _workloads(stored)
    for result in stored.results:
        case = MoETestConfig.from_id(result.case_id)
        if case.trace != MADE and result.verdict in STATUS:
            yield _trace(workloads, case, result, stored.info)


def _workloads(stored: View) -> dict[str, TraceLine]:
    """Return the lines of the run's data set by digest."""
    from harness.matrix.traces.trace_folder import read_folder

    if stored.info.options.trace is None:
        raise UsageError(f"{stored.name!r} ran no recorded workloads; start it with --trace PATH")
    folder = read_folder(Path(stored.info.options.trace))
    return {workload.line.digest: workload.line for workload in folder.workloads}


def _trace(
    workloads: dict[str, TraceLine], case: MoETestConfig, result: CaseResult, info: RunInfo
) -> dict[str, Any]:
    if case.trace not in workloads:
        raise UsageError(
            f"{info.options.trace!r} has no workload trace:{case.trace} any more; restore the data "
            "set as it was when the run started"
        )
    line = workloads[case.trace].model_dump()
    time = datetime.fromtimestamp(info.time, UTC).isoformat(timespec="seconds")
    return {
        **line,
        "solution": f"moe-harness_{case.under_test}",
        "evaluation": {
            "status": STATUS[result.verdict],
            "environment": {"hardware": info.platform.name, "libs": {**info.versions}},
            "timestamp": time,
            "log": "\n".join((case.id, *result.messages, NOT_A_BENCHMARK)),
            "correctness": _correctness(result),
            "performance": _performance(result),
        },
    }


def _correctness(result: CaseResult) -> dict[str, Any] | None:
    """Return errors relative to the reference; absolute ones are not measured, so NaN."""
    if result.verdict not in (Verdict.PASSED, Verdict.FAILED):
        return None
    return {
        "max_relative_error": result.metrics.get("worst_row", "NaN"),
        "max_absolute_error": "NaN",
        "extra": {"max_relative_error": "rms of a row over the reference's", **result.metrics},
    }


def _performance(result: CaseResult) -> dict[str, float] | None:
    if result.verdict is not Verdict.PASSED:
        return None
    layer, reference = (1000 * result.phases.get(name, 0.0) for name in ("layer", "reference"))
    return {
        "latency_ms": layer,
        "reference_latency_ms": reference,
        "speedup_factor": reference / layer if layer else 0.0,
    }
