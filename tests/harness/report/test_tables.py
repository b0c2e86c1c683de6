"""Reports are made from the folder alone: console, markdown, JUnit."""

from xml.etree import ElementTree as ET

import pytest

from harness.matrix.case import MoETestConfig
from harness.record.events import CaseEnded, CaseStarted, RunEnded, RunStarted
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder
from harness.record.summary import Summary, summarize
from harness.report import junit
from harness.report.tables import console, layout_name, markdown, skip_lines, view
from tests.harness.record.infos import run_info

PLAIN = "m:32-n:256-k:128-e:8-topk:2-experts:torch_loop"
CASES = [
    PLAIN,
    f"{PLAIN}-tp:2",
    f"{PLAIN}-dp:2-tp:2-ep-sp",
    f"{PLAIN}-quant:fp8_block",
    f"{PLAIN}-seed:1",
]
REFUSED = [(f"{PLAIN}-n:{n}", "block_straddles_shard", f"cuts at {n} \x1b[1m<&") for n in (1, 2)]
INFO = run_info(versions={"torch": "2.13.0"}, cases=CASES, refused=REFUSED)
BAD = CaseResult(
    case_id=CASES[1],
    verdict=Verdict.FAILED,
    seconds=2.5,
    messages=("rank 0,1: off by \x1b[31m3\x1b[0m\nsecond <line> & more", "rank 1: also\x00this"),
    log="logs/tp.txt",
)
RESULTS = [
    CaseResult(case_id=CASES[0], verdict=Verdict.PASSED, seconds=0.5),
    BAD,
    CaseResult(case_id=CASES[2], verdict=Verdict.HUNG, seconds=9.0, reason="time_limit"),
    CaseResult(
        case_id=CASES[3], verdict=Verdict.FLAKY, seconds=0.1, messages=("attempt 1 was failed",)
    ),
]


@pytest.fixture
def folder(tmp_path):
    with RunFolder.create(tmp_path / "run", INFO) as folder:
        folder.append(RunStarted(time=100.0, cases=CASES))
        for i, result in enumerate(RESULTS):
            folder.append(CaseEnded(time=101.0 + i, gang=1, result=result))
        yield folder


def test_the_console_report_says_all(folder):
    text = console(view(folder))
    assert "smoke on cpu, run" in text
    assert "torch_loop  1 passed, 1 failed, 1 hung, 1 not_run  1 flaky" in text
    assert "dp2 tp2 ep sp  1 hung" in text
    assert f"failed  {CASES[1]}\n    rank 0,1: off by" in text
    assert "    reason: time_limit" in text
    assert "    log: logs/tp.txt" in text
    assert f"    repeat: python -m harness run --case {CASES[1]}" in text
    assert f"9.00s  {CASES[2]}" in text.split("slowest")[1].splitlines()[1]
    assert "     2  block_straddles_shard: e.g. " in text
    assert text.splitlines()[-1] == (
        "cases=7 passed=1 failed=1 error=0 crashed=0 hung=1 skipped=2 vacuous=0 flaky=1 not_run=1 "
        "seconds=4.0"
    )


def test_long_messages_are_cut_with_their_number(folder):
    many = CaseResult(case_id=CASES[4], verdict=Verdict.ERROR, messages=("x\n" * 80,))
    folder.append(CaseEnded(time=105.0, gang=1, result=many))
    text = console(view(folder))
    assert text.count("\n    x") == 58
    assert "… 22 more lines" in text


def test_seconds_add_up_over_sittings(folder):
    folder.append(RunStarted(time=500.0, cases=CASES[4:]))
    folder.append(CaseStarted(time=501.0, case_id=CASES[4], gang=1))
    assert view(folder).summary.seconds == 4.0 + 1.0
    folder.append(RunEnded(time=503.0, seconds=3.5))
    assert view(folder).summary.seconds == 4.0 + 3.5


def test_markdown_is_tables_and_details(folder):
    text = markdown(view(folder))
    assert "| experts | none | fp8_block |\n| --- | --- | --- |\n| torch_loop | 1 passed" in text
    assert "<details><summary>did not pass</summary>\n\n```text\nfailed" in text
    assert "`cases=7 passed=1" in text


def test_a_run_without_any_result_is_reported_too(tmp_path):
    with RunFolder.create(tmp_path / "run", run_info()) as empty:
        assert console(view(empty)).endswith(
            "cases=0 passed=0 failed=0 error=0 crashed=0 hung=0 "
            "skipped=0 vacuous=0 flaky=0 not_run=0 seconds=0.0"
        )


# What Jenkins's xunit2 schema allows: element -> (attributes, children).
XUNIT2 = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"},
        {"properties", "testcase"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname", "time"}, {"skipped", "failure", "system-out"}),
    "failure": ({"type", "message"}, set()),
    "skipped": ({"type", "message"}, set()),
}


def test_junit_conforms_and_says_why(folder, tmp_path):
    (path,) = junit.write(view(folder), tmp_path / "out/junit.xml")
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


def test_junit_files_stay_short(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(junit, "MAX_CASES", 3)
    paths = junit.write(view(folder), tmp_path / "junit.xml")
    assert [path.name for path in paths] == ["junit-1.xml", "junit-2.xml", "junit-3.xml"]
    counts = [ET.parse(path).getroot()[0].get("tests") for path in paths]
    assert counts == ["3", "3", "1"]


def test_layouts_have_short_names():
    case = MoETestConfig.from_id(PLAIN)
    assert layout_name(case) == "one rank"
    assert layout_name(case.replace(dp_size=2, tp_size=4, use_ep=True)) == "dp2 tp4 ep"


def test_refusals_are_grouped_the_largest_group_first():
    rows = run_info(refused=[("x", "rare", "t"), *REFUSED]).refused
    lines = skip_lines(rows)
    assert [line.split(":")[0].split() for line in lines] == [
        ["2", "block_straddles_shard"],
        ["1", "rare"],
    ]


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["passed", "passed"], 0),
        (["passed", "failed"], 1),
        (["passed", "error"], 1),
        (["passed", "crashed"], 1),
        (["passed", "hung"], 1),
        (["passed", "vacuous"], 1),
        (["passed", "flaky"], 1),
        (["failed", "infra", "not_run"], 1),
        (["passed", "infra", "not_run"], 75),
        (["passed", "not_run"], 2),
        (["passed", None], 2),
        ([], 4),
    ],
)
def test_the_worst_verdict_decides_the_exit_code(verdicts, code):
    ids = [str(i) for i in range(len(verdicts))]
    results = {
        i: CaseResult(case_id=i, verdict=Verdict(v))
        for i, v in zip(ids, verdicts, strict=True)
        if v
    }
    assert summarize(ids, 3, results, 1.0).exit_code() == code


def test_counts_add_up_to_the_cases():
    counts = {verdict: i + 1 for i, verdict in enumerate(Verdict)}
    total = sum(counts.values())
    summary = Summary(counts=counts, seconds=1.25, cases=total)
    pairs = dict(pair.split("=") for pair in summary.line().split())
    assert pairs.pop("seconds") == "1.2"
    assert int(pairs.pop("cases")) == sum(int(count) for count in pairs.values())
    names = "passed failed error crashed hung skipped vacuous flaky not_run"
    assert " ".join(pairs) == names
    stored = summary.to_json()
    assert stored["infra"] == counts[Verdict.INFRA]
    assert stored["not_run"] == counts[Verdict.NOT_RUN]
