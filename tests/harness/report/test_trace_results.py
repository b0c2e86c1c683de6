"""Results of recorded workloads in the format's own words."""

import dataclasses
import json

import pytest

from harness.errors import UsageError
from harness.matrix.layout_words import parse_layouts
from harness.matrix.traces.trace_cases import cases_of
from harness.matrix.traces.trace_folder import read_folder
from harness.record.result import CaseResult, Verdict
from harness.record.run_info import RunOptions
from harness.record.summary import summarize
from harness.report import trace_results
from harness.report.tables import View
from tests.harness.record.infos import run_info
from tests.harness.trace_sets import RENORM, line, write


def view(root, *results):
    info = run_info(versions={"torch": "2.13.0"}, cases=[r.case_id for r in results])
    options = RunOptions(time_limit=1.0, retries=0, trace=None if root is None else str(root))
    ids = [result.case_id for result in results]
    return View(
        name="one",
        info=dataclasses.replace(info, options=options, time=0.0),
        results=results,
        refused=(),
        summary=summarize(ids, 0, {r.case_id: r for r in results}, 1.0),
    )


def case_of(root):
    (case,) = cases_of(read_folder(root).workloads, layouts=parse_layouts("tp:1"))
    return case.replace(experts="torch_loop")


def result(case, verdict):
    metrics = {"worst_row": 0.25, "rel_rms": 0.125}
    phases = {"layer": 0.002, "reference": 0.008}
    return CaseResult(
        case_id=case.id, verdict=verdict, metrics=metrics, phases=phases, messages=("rank 0: x",)
    )


def test_a_result_is_a_trace_of_its_workload(tmp_path):
    root = write(tmp_path / "set", RENORM)
    case = case_of(root)
    text = trace_results.write(view(root, result(case, Verdict.PASSED)), tmp_path / "out")
    assert text.endswith("out: 1 result(s), 0 without a status in the format left out")
    (trace,) = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert (trace["definition"], trace["workload"]) == (RENORM, line(RENORM)["workload"])
    assert trace["solution"] == "moe-harness_torch_loop"
    evaluation = trace["evaluation"]
    assert evaluation["status"] == "PASSED"
    assert evaluation["timestamp"] == "1970-01-01T00:00:00+00:00"
    assert evaluation["environment"]["libs"] == {"torch": "2.13.0"}
    assert evaluation["log"].startswith(f"{case.id}\nrank 0: x\n")
    assert evaluation["correctness"]["max_relative_error"] == 0.25
    assert evaluation["correctness"]["extra"]["rel_rms"] == 0.125
    assert evaluation["performance"] == {
        "latency_ms": 2.0,
        "reference_latency_ms": 8.0,
        "speedup_factor": 4.0,
    }


STATUS = {
    "passed": ("PASSED", True, True),
    "failed": ("INCORRECT_NUMERICAL", True, False),
    "error": ("RUNTIME_ERROR", False, False),
    "crashed": ("RUNTIME_ERROR", False, False),
    "hung": ("TIMEOUT", False, False),
}


@pytest.mark.parametrize("verdict", Verdict, ids=str)
def test_each_verdict_has_its_status_or_is_left_out(tmp_path, verdict):
    root = write(tmp_path, RENORM)
    lines = list(trace_results.trace_lines(view(root, result(case_of(root), verdict))))
    if str(verdict) not in STATUS:
        assert lines == []
        return
    (evaluation,) = (trace["evaluation"] for trace in lines)
    parts = [evaluation[name] is not None for name in ("correctness", "performance")]
    assert (evaluation["status"], *parts) == STATUS[str(verdict)]


def test_flashinfer_bench_accepts_every_line(tmp_path):
    data = pytest.importorskip("flashinfer_bench.data", reason="not installed: the extra subjects")
    root = write(tmp_path, RENORM)
    stored = view(root, *(result(case_of(root), verdict) for verdict in Verdict))
    lines = [json.dumps(trace) for trace in trace_results.trace_lines(stored)]
    statuses = [data.Trace.model_validate_json(text).evaluation.status.value for text in lines]
    assert sorted(statuses) == sorted(status for status, *_ in STATUS.values())


def test_made_cases_are_no_traces(tmp_path):
    root = write(tmp_path, RENORM)
    made = result(case_of(root).replace(trace="made"), Verdict.PASSED)
    assert list(trace_results.trace_lines(view(root, made))) == []


def test_a_run_without_workloads_or_of_changed_ones_is_refused(tmp_path):
    root = write(tmp_path, RENORM)
    passed = result(case_of(root), Verdict.PASSED)
    with pytest.raises(UsageError, match="'one' ran no recorded workloads; start it with --trace"):
        list(trace_results.trace_lines(view(None, passed)))
    (root / "workloads/moe/all.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"has no workload trace:[0-9a-f]{12} any more"):
        list(trace_results.trace_lines(view(root, passed)))
