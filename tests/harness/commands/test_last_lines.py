"""A run whose counts alone would look like a pass says so, and its code is not 0."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.commands import last_lines
from harness.errors import InfrastructureError
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder
from harness.record.summary import Summary
from tests.harness.fake_engine import BASE

ROOT = Path(__file__).parents[3]


@pytest.fixture
def no_room(monkeypatch):
    """From here on files may grow to `size` bytes and no further, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_once(engine, no_room, size=0):
    """Fill the disk when the engine is asked for its first result, and never make room again."""
    real = engine._result

    def result(case):
        no_room(size)
        return real(case)

    engine._result = result


@pytest.mark.parametrize(
    ("recorded", "advice"),
    [(False, "--durations-from gives better estimates"), (True, "give it more time")],
)
def test_a_time_budget_that_was_too_short_is_not_told_what_it_was_given(recorded, advice):
    summary = Summary(counts={Verdict.NOT_RUN: 2}, seconds=1.0, cases=2)
    late = last_lines.not_run(summary, fail_fast=False, out_of_time=True, recorded=recorded)
    assert late == [f"2 case(s) that were chosen did not run: the time budget is over; {advice}"]


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict.PASSED, 75),
        (Verdict.NOT_RUN, 75),
        (Verdict.FAILED, 1),
        (Verdict.VACUOUS, 1),
        (Verdict.INFRA, 75),
    ],
)
def test_a_run_that_could_not_be_recorded_is_not_a_pass(engine, capsys, no_room, verdict, code):
    engine.verdicts = {BASE: verdict}
    fill_once(engine, no_room)
    assert cli.main(["run", "--suite", "smoke", "--out", "here"]) == code
    captured = capsys.readouterr()
    assert f"{verdict}=" in captured.out.splitlines()[-1] or verdict is Verdict.INFRA
    assert "seconds=" in captured.out.splitlines()[-1]
    hides = verdict in (Verdict.PASSED, Verdict.NOT_RUN)
    assert ("the record in 'here' is incomplete: [Errno 27]" in captured.err) == hides
    if hides:
        before = 0 if verdict is Verdict.PASSED else 2
        assert f"exit code 75 instead of {before}; make room or give --out" in captured.err


def test_one_lost_verdict_is_enough(engine, capsys, no_room):
    real, count = engine._result, []

    def result(case):
        count.append(case)
        no_room(0 if len(count) == 2 else 10**9)
        return real(case)

    engine._result = result
    assert cli.main(["run", "--suite", "smoke", "--out", "here"]) == 75
    assert len(RunFolder.open(Path("here")).results) == 0
    assert "passed=8" in capsys.readouterr().out.splitlines()[-1]
    no_room(10**9)
    assert cli.main(["run", "--resume", "here"]) == 0
    assert len(engine.calls[1][0].cases) == 1


def test_an_interrupt_and_an_engine_that_gives_up_keep_their_codes(engine, no_room):
    engine.stop_after = (3, KeyboardInterrupt())
    fill_once(engine, no_room)
    assert cli.main(["run", "--suite", "smoke", "--out", "here"]) == 130
    engine.stop_after = (engine.ran + 3, InfrastructureError("no gang starts"))
    no_room(10**9)
    assert cli.main(["run", "--suite", "smoke", "--out", "there"]) == 75


def test_a_certificate_of_a_run_that_could_not_be_recorded_is_not_a_pass(engine, no_room):
    fill_once(engine, no_room)
    assert cli.main(["power", "--suite", "smoke", "--out", "here"]) == 75


def test_a_file_system_without_locks_loses_nothing(engine, capsys, monkeypatch):
    import fcntl

    def unlockable(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unlockable)
    assert cli.main(["run", "--case", BASE, "--out", "here"]) == 0
    assert "warning: cannot lock 'here': [Errno 95]" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "fuzz"])
def test_real_commands_on_a_full_disk(tmp_path, command):
    """Ranks have room for their logs; the controller has none for one event."""
    code = (
        "import sys\n"
        "from resource import RLIMIT_FSIZE, RLIM_INFINITY, setrlimit\n"
        "from harness import cli\n"
        "from harness.record.run_folder import RunFolder\n"
        "append = RunFolder.append\n"
        "def on_a_full_disk(folder, event):\n"
        "    setrlimit(RLIMIT_FSIZE, (0, RLIM_INFINITY))\n"
        "    append(folder, event)\n"
        "    setrlimit(RLIMIT_FSIZE, (RLIM_INFINITY, RLIM_INFINITY))\n"
        "RunFolder.append = on_a_full_disk\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    case = "m:2-n:64-k:64-e:4-topk:2-experts:torch_loop"
    asked = {
        "run": ["run", "--case", case],
        "fuzz": ["fuzz", "--cases", "2", "--experts", "torch_loop", "--budget", "2m"],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", code, *asked, "--out", str(tmp_path / "here")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 75, done.stdout + done.stderr
    assert re.search(r"cases=(\d) passed=\1 ", done.stdout.splitlines()[-1])
    assert "incomplete: [Errno 27] File too large; exit code 75 instead of 0" in done.stderr
    assert (tmp_path / "here/events.jsonl").read_text() == ""


# What a machine refused.

MOSTLY = """\
version: 1
defaults: {shapes: [[2, 256, 128]], num_experts: [8], top_k: [2], experts: [torch_loop]}
suites:
  most:
    description: x
    blocks:
      - {experts: [flashinfer_cutlass], seed: [0, 1, 2]}
      - {layouts: [{}, {tp: 4}], quant: [fp8_block]}
  half:
    description: x
    blocks:
      - {experts: [torch_loop, flashinfer_cutlass]}
"""


def test_a_run_that_mostly_refused_says_so_before_its_summary(engine, capsys):
    Path("configs/matrix.yaml").write_text(MOSTLY)
    assert cli.main(["run", "--suite", "most"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:-1] == [
        "warning: 4 of 5 points were refused on cpu, mostly for platform_lacks_feature (3), "
        "block_straddles_shard (1)",
        "    to end with 75 if the machine lacks something: "
        "--require PLATFORM, devices=N or experts=NAME",
    ]
    assert lines[-1].startswith("cases=5 passed=1 ")


def test_a_run_that_refused_as_much_as_it_ran_does_not(engine, capsys):
    Path("configs/matrix.yaml").write_text(MOSTLY)
    assert cli.main(["run", "--suite", "half"]) == 0
    assert "warning" not in capsys.readouterr().out


# What -x left out.


def test_cases_that_did_not_run_are_one_line(engine, capsys):
    engine.verdicts = {f"{BASE}{rest}": Verdict.NOT_RUN for rest in ("", "-tp:2", "-seed:1")}
    engine.verdicts[f"{BASE}-quant:fp8_block"] = Verdict.ERROR
    assert cli.main(["run", "--suite", "smoke", "-x", "--out", "here"]) == 1
    out = capsys.readouterr().out
    assert "not_run     " not in out
    assert f"repeat: python -m harness run --case {BASE}\n" not in out
    lines = out.splitlines()
    assert lines[-2] == "3 case(s) did not run: -x stops at the first failure"
    assert json.loads(Path("here/summary.json").read_text())["not_run"] == 3
    assert cli.main(["run", "--suite", "smoke", "--out", "there"]) == 1
    assert "did not run" not in capsys.readouterr().out


def test_assumed_numerics_are_told_once_for_each_subject():
    plain = "m:8-n:64-k:64-e:4-topk:2-experts:{}"
    pairs = [("mine.x:A", "Numerics()"), ("mine.x:A", "Numerics()"), ("torch_loop", None)]
    results = [
        CaseResult(case_id=plain.format(name), verdict=Verdict.PASSED, assumed=assumed)
        for name, assumed in pairs
    ]
    assert last_lines.assumed_numerics(results) == [
        "numerics: assumed in 2 case(s) of mine.x:A; to pin them down: "
        "python -m harness numerics --experts mine.x:A"
    ]


def test_roundings_of_a_router_whose_row_states_none_are_told_with_the_line_to_state():
    case = "m:8-n:64-k:64-e:4-topk:2-experts:torch_loop{}"
    pairs = [("-router:mine.x:A", "RouterNumerics.as_torch()")] * 2 + [("", None)]
    results = [
        CaseResult(case_id=case.format(name), verdict=Verdict.PASSED, router_assumed=assumed)
        for name, assumed in pairs
    ]
    assert last_lines.assumed_roundings(results) == [
        "routing: mine.x:A is right in 2 case(s) if it may round; its row can say so: "
        "rounding=RouterNumerics.as_torch()"
    ]


def test_roundings_of_a_router_inside_a_whole_layer_are_the_layer_s_to_state():
    case_id = "m:8-n:64-k:64-e:4-topk:2-experts:own-layer:mine.x:A"
    result = CaseResult(case_id=case_id, verdict=Verdict.PASSED, router_assumed="RouterNumerics()")
    (line,) = last_lines.assumed_roundings([result])
    assert line.startswith("routing: mine.x:A is right in 1 case(s) if it may round; ")
