"""A run's trace: spans of each rank, of earlier attempts, and of what was cut off."""

import json

from harness.record.events import CaseEnded, CaseStarted, GangEnded, GangStarted, RunStarted
from harness.record.result import CaseResult, Verdict
from harness.report import trace

PASSED = CaseResult(
    case_id="a",
    verdict=Verdict.PASSED,
    ranks={"0": "passed", "1": "passed"},
    phases={"inputs": 0.25, "layer": 9.0},
)
FLAKY = CaseResult(case_id="b", verdict=Verdict.FLAKY, attempt=2, ranks={"0": "passed"})
START = RunStarted(time=100.0, cases=["a", "b"])


def gang(number, time, world_size=2, devices=()):
    values = {"world_size": world_size, "transport": "nccl", "devices": list(devices)}
    return GangStarted(time=time, gang=number, seconds=0.5, **values)


def began(case, time, number=1, attempt=1):
    return CaseStarted(time=time, case_id=case, gang=number, attempt=attempt)


def ended(number, time):
    return GangEnded(time=time, gang=number, reason="done", cases=1)


def spans(events):
    """Return (name, process, thread, start and end in seconds, args) of each complete event."""
    entries = trace.trace(events)["traceEvents"]
    return [
        (e["name"], e["pid"], e["tid"], e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6, e.get("args"))
        for e in entries
        if e["ph"] == "X"
    ]


def test_a_case_is_a_span_on_each_rank_and_its_phases_stay_inside():
    events = [START, gang(1, 101.0, devices=(3, 5)), began("a", 101.0)]
    events += [CaseEnded(time=102.5, gang=1, result=PASSED), ended(1, 103.0)]
    args = {"verdict": "passed", "case": "passed", "attempt": 1}
    assert spans(events) == [
        ("start", 1, 0, 0.5, 1.0, None),
        ("a", 1, 1, 1.0, 2.5, args),
        ("a", 1, 2, 1.0, 2.5, args),
        ("inputs", 1, 0, 1.0, 1.25, None),
        ("layer", 1, 0, 1.25, 2.5, None),
    ]
    entries = trace.trace(events)["traceEvents"]
    names = [(e["name"], e["tid"], e["args"]["name"]) for e in entries if e["ph"] == "M"]
    assert names == [
        ("process_name", 0, "gang 1: 2 rank(s) over nccl"),
        ("thread_name", 0, "phases of the slowest rank"),
        ("thread_name", 1, "rank 0 on device 3"),
        ("thread_name", 2, "rank 1 on device 5"),
    ]


def test_an_earlier_attempt_ends_with_its_gang():
    events = [START, gang(1, 101.0, 1), began("b", 101.0), ended(1, 102.0), gang(2, 103.0, 1)]
    events += [began("b", 103.0, 2, 2), CaseEnded(time=104.0, gang=2, result=FLAKY)]
    shown = [span for span in spans(events) if span[0] == "b"]
    assert shown == [
        ("b", 1, 1, 1.0, 2.0, {"verdict": "tried again", "attempt": 1}),
        ("b", 2, 1, 3.0, 4.0, {"verdict": "passed", "case": "flaky", "attempt": 2}),
    ]


def test_what_was_cut_off_ends_with_the_record_and_a_resumed_run_has_its_own_gangs():
    events = [START, gang(1, 101.0, 1), began("a", 101.0)]
    (_, first) = spans(events)
    assert first == ("a", 1, 1, 1.0, 1.0, {"verdict": "cut off", "attempt": 1})
    again = RunStarted(time=200.0, cases=["b"])
    (_, first, _, second) = spans([*events, again, gang(1, 201.0, 1), began("b", 201.0)])
    assert (first[1], second[1]) == (1, 2)
    assert first[4] == 100.0


def test_what_was_not_launched_has_no_span():
    refused = CaseEnded(time=101.0, gang=0, result=PASSED)
    again = CaseEnded(time=102.0, gang=1, result=PASSED)
    assert [span[0] for span in spans([START, refused, gang(1, 101.0), again])] == ["start"]
    assert trace.trace([])["traceEvents"] == []


def test_a_result_of_another_case_does_not_end_the_one_that_runs():
    other = CaseEnded(time=102.0, gang=1, result=FLAKY)
    events = [START, gang(1, 101.0, 1), began("a", 101.0), other]
    events += [CaseEnded(time=103.0, gang=1, result=PASSED)]
    (case,) = [span for span in spans(events) if span[2] == 1]
    assert (case[0], case[4]) == ("a", 3.0)


def test_a_clock_that_was_set_back_gives_no_negative_length(tmp_path):
    events = [START, gang(1, 101.0), began("a", 101.0), CaseEnded(time=50.0, gang=1, result=PASSED)]
    path = tmp_path / "trace.json"
    trace.write(events, path)
    entries = json.loads(path.read_text())["traceEvents"]
    assert min(entry.get("dur", 0) for entry in entries) == 0


def test_a_case_that_is_tried_with_another_seed_began_with_its_first():
    events = [START, gang(1, 101.0), began("a", 101.0), began("a", 102.0)]
    events += [CaseEnded(time=102.5, gang=1, result=PASSED), ended(1, 103.0)]
    assert [span[3:5] for span in spans(events) if span[0] == "a"] == [(1.0, 2.5)] * 2
