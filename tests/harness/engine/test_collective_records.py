"""What a rank wrote of its collectives is read, of its latest call only, up to a torn line."""

from __future__ import annotations

from pathlib import Path

from harness.engine import collective_records
from harness.engine.collective_records import (
    CollectiveTrace,
    Entered,
    Entry,
    Parts,
    Stage,
    Traced,
    from_json,
    read_traces,
    trace_file,
)

REDUCED = Entry("3", Parts("all_reduce", "SUM", "bfloat16", 8, 8))
SENT = Entry("3", Parts("all_to_all", "", "uint8", (1, 2), (0, 4)))


def begun(folder, call: int, *entries: Entry) -> CollectiveTrace:
    trace = CollectiveTrace(trace_file(folder, 0))
    trace.begin(call)
    trace.add_group("3", (0, 1), "ep")
    for entry in entries:
        trace.enter(entry)
    return trace


def expected(call: int, stage: Stage, *entries: Entry) -> Traced:
    entered = Entered(entries=list(entries), members={"3": (0, 1)}, words={"3": "ep"})
    return Traced(call=call, stage=stage, entered=entered)


def test_the_latest_call_is_read_wherever_the_rank_is(tmp_path):
    trace = begun(tmp_path, 1, REDUCED)
    trace.end(Stage.OVER)
    assert read_traces(tmp_path, 2) == {0: expected(1, Stage.OVER, REDUCED)}
    trace = begun(tmp_path, 2, REDUCED, SENT)
    assert read_traces(tmp_path, 1) == {0: expected(2, Stage.INSIDE, REDUCED, SENT)}
    with trace_file(tmp_path, 0).open("a") as file:
        file.write('["enter", "3", ["all_')
    assert read_traces(tmp_path, 1) == {0: expected(2, Stage.INSIDE, REDUCED, SENT)}
    trace.clear()
    assert read_traces(tmp_path, 1) == {0: Traced()}


def test_an_endless_loop_of_collectives_fills_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(collective_records, "MAX_ENTRIES", 2)
    trace = begun(tmp_path, 1, REDUCED, REDUCED, REDUCED)
    trace.end(Stage.RAISED)
    assert read_traces(tmp_path, 1) == {0: expected(1, Stage.RAISED, REDUCED, REDUCED)}


def test_a_full_disk_costs_the_record_and_not_the_case():
    CollectiveTrace(Path("/dev/full")).enter(REDUCED)


def test_records_survive_json():
    entered = expected(1, Stage.OVER, REDUCED, SENT).entered
    assert from_json(entered.to_json()) == entered
