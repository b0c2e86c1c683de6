"""Reports are made from the folder alone: console and markdown."""

from harness.matrix.case import MoETestConfig
from harness.record.events import CaseEnded, CaseStarted, RunEnded, RunStarted
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder
from harness.report.tables import console, layout_name, markdown, skip_lines, view
from tests.harness.record.infos import run_info
from tests.harness.report.stored_run import CASES, PLAIN, REFUSED


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
