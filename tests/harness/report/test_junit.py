"""JUnit XML of a stored run, as Jenkins' xunit2 schema allows it."""

import dataclasses
from xml.etree import ElementTree as ET

from harness.record.result import Attempt, CaseResult, Verdict
from harness.report import junit
from harness.report.tables import view
from tests.harness.report.stored_run import CASES, REFUSED

# What Jenkins's xunit2 schema allows: element -> (attributes, children).
XUNIT2 = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"},
        {"properties", "testcase"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": (
        {"name", "classname", "time"},
        {"skipped", "failure", "rerunFailure", "flakyFailure", "system-out"},
    ),
    "rerunFailure": ({"type", "message"}, {"stackTrace", "system-out"}),
    "flakyFailure": ({"type", "message"}, {"stackTrace", "system-out"}),
    "failure": ({"type", "message"}, set()),
    "skipped": ({"type", "message"}, set()),
}


def test_junit_conforms_and_says_why(folder, tmp_path):
    (path,) = junit.write(view(folder), tmp_path / "junit.xml")
    root = ET.parse(path).getroot()
    for element in root.iter():
        attributes, children = XUNIT2[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("7", "3", "3")
    by_name = {case.get("name"): case for case in suite.iter("testcase")}
    assert set(by_name) == {*CASES, *(case for case, _, _ in REFUSED)}
    failure = by_name[CASES[1]].find("failure")
    assert failure.get("type") == "failed"
    assert failure.get("message") == "rank 0,1: off by [31m3[0m"
    assert (
        "second <line> & more\nrank 1: alsothis\nlog: logs/tp.txt\nrepeat: python" in failure.text
    )
    assert by_name[CASES[3]].find("failure").get("type") == "flaky"
    assert by_name[CASES[4]].find("skipped").get("type") == "not_run"
    skipped = by_name[REFUSED[0][0]].find("skipped")
    assert skipped.get("type") == "block_straddles_shard"
    assert skipped.get("message") == "block_straddles_shard: cuts at 1 [1m<&"
    assert {p.get("name"): p.get("value") for p in suite.iter("property")} == {
        "platform": "cpu",
        "torch": "2.13.0",
    }


def test_earlier_attempts_are_reruns_and_of_a_flaky_case_flaky_failures(folder, tmp_path):
    crashed = Attempt(verdict=Verdict.CRASHED, seconds=1.5, reason="rank 1: \x1bkilled by SIGSEGV")
    failed = Attempt(verdict=Verdict.FAILED, seconds=0.25, reason="rank 0: 3 of 4 rows are wrong")
    results = [
        CaseResult(case_id=CASES[0], verdict=Verdict.FLAKY, attempt=3, earlier=(crashed, failed)),
        CaseResult(case_id=CASES[1], verdict=Verdict.FAILED, attempt=2, earlier=(crashed,)),
        CaseResult(case_id=CASES[2], verdict=Verdict.FAILED),
    ]
    run = dataclasses.replace(view(folder), results=tuple(results), refused=())
    (path,) = junit.write(run, tmp_path / "junit.xml")
    flaky, hopeless, once = ET.parse(path).getroot().iter("testcase")
    assert [child.tag for child in flaky] == ["failure", "flakyFailure", "flakyFailure"]
    assert [(child.get("type"), child.get("message")) for child in flaky][1:] == [
        ("crashed", "attempt 1, 1.500 s: rank 1: killed by SIGSEGV"),
        ("failed", "attempt 2, 0.250 s: rank 0: 3 of 4 rows are wrong"),
    ]
    assert [child.tag for child in hopeless] == ["failure", "rerunFailure"]
    assert [child.tag for child in once] == ["failure"]


def test_junit_files_stay_short(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(junit, "MAX_CASES", 3)
    paths = junit.write(view(folder), tmp_path / "junit.xml")
    assert [path.name for path in paths] == ["junit-1.xml", "junit-2.xml", "junit-3.xml"]
    counts = [ET.parse(path).getroot()[0].get("tests") for path in paths]
    assert counts == ["3", "3", "1"]


def test_a_known_failure_is_skipped_with_its_issue_and_no_pass(folder, tmp_path):
    known = CaseResult(
        case_id=CASES[0],
        verdict=Verdict.KNOWN,
        messages=("known failure until 2027-01-31: https://host/1; was failed", "off by 3"),
        leading=(0,),
    )
    run = dataclasses.replace(view(folder), results=(known,), refused=())
    (path,) = junit.write(run, tmp_path / "junit.xml")
    (skipped,) = ET.parse(path).getroot().iter("skipped")
    assert skipped.get("type") == "known_failure"
    assert "https://host/1" in skipped.get("message")
