"""Every event goes through a line of JSON unchanged; a broken line is an error."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.record.events import (
    CaseEnded,
    CaseStarted,
    GangEnded,
    GangStarted,
    RunEnded,
    RunStarted,
    from_line,
    to_line,
)
from harness.record.result import Attempt, CaseResult, Verdict

times = st.floats(0, 1e10)
numbers = st.integers(0, 100)
metrics = st.dictionaries(st.text(), st.floats(allow_nan=False))
attempts = st.builds(Attempt, verdict=st.sampled_from(Verdict), seconds=times, reason=st.text())
results = st.builds(
    CaseResult,
    case_id=st.text(),
    verdict=st.sampled_from(Verdict),
    seconds=times,
    reason=st.none() | st.text(),
    messages=st.lists(st.text()).map(tuple),
    metrics=metrics,
    members=st.dictionaries(st.text(), st.text()),
    versions=st.dictionaries(st.text(), st.text()),
    ranks=st.dictionaries(st.text(), st.text()),
    phases=metrics,
    log=st.none() | st.text(),
    attempt=numbers,
    earlier=st.lists(attempts).map(tuple),
)
events = st.one_of(
    st.builds(RunStarted, time=times, cases=st.lists(st.text())),
    st.builds(
        GangStarted,
        time=times,
        gang=numbers,
        world_size=numbers,
        transport=st.text(),
        seconds=times,
    ),
    st.builds(GangEnded, time=times, gang=numbers, reason=st.text(), cases=numbers),
    st.builds(CaseStarted, time=times, case_id=st.text(), gang=numbers, attempt=numbers),
    st.builds(CaseEnded, time=times, gang=numbers, result=results),
    st.builds(RunEnded, time=times, seconds=times, counts=st.dictionaries(st.text(), numbers)),
)


@given(events)
def test_an_event_survives_its_line(event):
    line = to_line(event)
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    assert from_line(line) == event


def test_a_metric_that_is_no_number_survives():
    result = CaseResult(case_id="a", verdict=Verdict.FAILED, metrics={"rel": math.nan})
    back = from_line(to_line(CaseEnded(time=0.0, gang=1, result=result)))
    assert math.isnan(back.result.metrics["rel"])


@pytest.mark.parametrize("line", ['{"event": "Nothing"}', "{}", '{"event": "Run'])
def test_a_line_that_is_no_event_is_an_error(line):
    with pytest.raises(ValueError, match=r"unknown event|Unterminated"):
        from_line(line)
