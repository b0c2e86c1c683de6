"""The command line: options, exit codes, folders, and what the console says.

The engine is a stand-in that gives each case the verdict a test asks for; its own tests use
real ranks. Interrupts are real signals to a real process.
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import harness.engine.scheduler
from harness import cli
from harness.errors import InfrastructureError
from harness.matrix.case import MoETestConfig
from harness.plan.selection import of_folder
from harness.record.events import RunEnded, RunStarted
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder
from harness.report import progress
from tests.harness.console import LONG, last_line, summary, the_folder
from tests.harness.fake_engine import BASE, TEXT, FakeEngine

RIGHT = "tests.harness.outside_layers:Right"
OF_LOOP = "tests.harness.execute_ranks:ConvertsInPlace"  # an experts backend


# --- run: what it writes and says


def test_a_good_run(engine, capsys):
    assert cli.main(["run", "--suite", "smoke"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert re.match(
        r"8 case\(s\) in 2 job\(s\), 1 refused \(1 platform_lacks_feature\), "
        r"on cpu with 2 core\(s\); folder runs",
        out[0],
    )
    assert out[1] == f"[1/8] passed      0.50s  {BASE}-quant:fp8_block"
    assert len(out) == 1 + 8 + 1
    assert summary(9, passed=8, skipped=1).match(out[-1])
    folder = the_folder()
    assert re.fullmatch(r"\d{8}T\d{6}Z-smoke", folder.path.name)
    events = folder.events()
    assert isinstance(events[0], RunStarted)
    assert events[0].cases == list(folder.info.cases)
    assert isinstance(events[-1], RunEnded)
    stored = json.loads((folder.path / "summary.json").read_text())
    assert (stored["cases"], stored["passed"], stored["skipped"]) == (9, 8, 1)


def test_a_plain_call_is_given_by_an_option_and_kept_for_a_resumed_run(engine):
    cli.main(["run", "--suite", "smoke", "--plain-call", "--out", "here"])
    ((_, options),) = engine.calls
    assert options.rank_options["plain_call"] is True
    assert RunFolder.open(Path("here")).info.options.plain_call


def test_undeclared_is_given_by_an_option_and_kept_for_a_resumed_run(engine):
    cli.main(["run", "--suite", "smoke", "--undeclared", "--out", "here"])
    assert engine.calls[0][1].rank_options["undeclared"] is True
    assert of_folder(RunFolder.open(Path("here"))).undeclared


def test_what_the_engine_is_given(engine):
    cli.main(["run", "--suite", "smoke", "-x", "--slots", "3", "--save-tensors", "--out", "here"])
    ((plan, options),) = engine.calls
    assert {job.time_limit for job in plan.jobs} == {33.0}
    assert (options.fail_fast, options.retries, options.slots) == (True, 1, 3)
    assert options.log_dir == Path("here/logs")
    assert options.rank_options == {
        "save_tensors": str(Path("here/tensors").absolute()),
        "plain_call": False,
        "undeclared": False,
        "trace": None,
        "pictures": str(Path("here/logs").absolute()),
    }
    cli.main(["run", "--suite", "smoke", "--retries", "4"])
    assert engine.calls[1][1].retries == 4
    assert engine.calls[1][1].rank_options["save_tensors"] is None


def test_a_failure_shows_why_and_how_to_repeat_it(engine, capsys):
    bad = f"{BASE}-tp:2-seed:1"
    engine.verdicts[bad] = Verdict.FAILED
    assert cli.main(["run", "--suite", "smoke"]) == 1
    out = capsys.readouterr().out
    assert (
        f"failed      0.50s  {bad}\n    rank 0: wrong\n"
        f"    repeat: python -m harness run --case {bad}\n" in out
    )
    assert summary(9, passed=7, failed=1, skipped=1).match(out.splitlines()[-1])
    assert cli.main(["run", "--case", bad]) == 1
    assert [case.id for case in engine.calls[1][0].cases] == [bad]


def test_verbose_shows_gangs(engine, capsys):
    cli.main(["run", "--suite", "smoke", "-v"])
    out = capsys.readouterr().out
    assert "gang 1: 1 rank(s) over gloo, ready after 0.10s" in out
    assert "gang 2: ended after 4 case(s): done" in out


def test_a_folder_is_never_overwritten(engine, capsys):
    assert cli.main(["run", "--suite", "smoke", "--out", "here"]) == 0
    assert cli.main(["run", "--suite", "smoke", "--out", "here"]) == 3
    assert "not empty" in capsys.readouterr().err
    for _ in range(2):
        assert cli.main(["run", "--suite", "smoke"]) == 0
    assert len(list(Path("runs").iterdir())) == 2


# --- usage errors


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["run"], "choose one of --suite, --case, --last-failed, --model, --trace, --resume "),
        (["run", "--suite", "smoke", "--case", BASE], "(--suite and --case given)"),
        (["run", "--suite", "smok"], "no suite is called 'smok', did you mean 'smoke'?"),
        (["run", "--case", "m:1"], "lacks n, k"),
        (["run", "--case", BASE, "--experts", "a b"], "experts must be a name"),
        (["run", "--case", BASE, "--experts", "nowhere_x:Y"], "cannot load experts 'nowhere_x:Y'"),
        (["run", "--case", BASE, "--layer", "a b"], "layer must be a name"),
        (["run", "--case", BASE, "--layer", "nowhere_x:Y"], "cannot load layers 'nowhere_x:Y'"),
        (["run", "--case", BASE, "--layer", "a:B", "--experts", "triton"], "leave --experts out"),
        (["run", "--resume", "x", "--layer", "a:B"], "--out, --experts, --layer, --seeds"),
        (["run", "--case", BASE, "--layer", OF_LOOP], "is not a whole layer: derive it from"),
        (["run", "--case", BASE, "--experts", RIGHT], "not an experts backend; use `--layer "),
        (["list", "--layer", "nowhere_x:Y"], "cannot load layers 'nowhere_x:Y'"),
        (
            ["run", "--case", BASE, "--seeds", "0"],
            "--seeds: give a whole number of at least 1",
        ),
        (["run", "--case", BASE, "--seeds", "2000000"], "more than 1,000,000 cases; give fewer"),
        (
            ["run", "--case", BASE, "--time-limit", "0"],
            "--time-limit: give a number of seconds",
        ),
        (
            ["run", "--case", BASE, "--retries", "-1"],
            "--retries: give a whole number of at",
        ),
        (["run", "--case", BASE, "--seeds", "two"], "give a whole number of at least 1, not 'two'"),
        (["run", "--last-failed"], "no run folder under 'runs'"),
        (["run", "--resume", "nowhere"], "'nowhere' is not a run folder: run.json: No such file"),
        (["run", "--resume", "x", "--seeds", "2"], "leave out --case, --last-failed"),
        (["run", "--suite", "smoke", "--config", "nowhere.yaml"], "cannot read the matrix file"),
        (["list", "--platform", "cuda_sm9"], "did you mean 'cuda_sm90'?"),
        (["list", "--devices", "3"], "--devices goes with --platform NAME"),
        (
            ["list", "--platform", "cuda_sm90", "--devices", "0"],
            "--devices: give a whole number",
        ),
        (["report", "nowhere"], "'nowhere' is not a run folder"),
        (["rnu"], "invalid choice: 'rnu'"),
        ([], "required: COMMAND"),
        (["run", "--suit", "smoke"], "unrecognized arguments: --suit"),
    ],
)
def test_a_usage_error_says_why_and_exits_3(engine, capsys, argv, complaint):
    assert cli.main(argv) == 3
    assert complaint in capsys.readouterr().err
    assert not engine.calls
    assert not Path("runs").exists()


def test_a_bad_matrix_file_exits_3_with_every_complaint(engine, capsys):
    Path("configs/matrix.yaml").write_text(
        TEXT.replace("top_k", "topk").replace("retries: 1", "retries: x")
    )
    assert cli.main(["run", "--suite", "smoke"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert "configs/matrix.yaml:2:55: defaults.topk: unknown key, did you mean 'top_k'?" in lines
    assert (
        "configs/matrix.yaml:7:14: suites.smoke.retries: must be a whole number, not 'x'" in lines
    )


# --- run: exit codes and interrupts


def test_nothing_to_run_fails(engine, capsys):
    assert cli.main(["run", "--suite", "nothing"]) == 4
    said = capsys.readouterr().err
    assert "nothing would run here; every point is refused:" in said
    assert "     1  platform_lacks_feature: e.g. m:2-" in said
    assert not engine.calls


def test_the_machines_fault_exits_75(engine, capsys):
    engine.verdicts = {BASE: Verdict.INFRA}
    assert cli.main(["run", "--suite", "smoke"]) == 75
    assert summary(9, passed=7, not_run=1, skipped=1).match(last_line(capsys))
    assert json.loads((the_folder().path / "summary.json").read_text())["infra"] == 1


def test_an_engine_that_gives_up_exits_75_and_resumes(engine, capsys):
    engine.stop_after = (3, InfrastructureError("no gang starts"))
    assert cli.main(["run", "--suite", "smoke", "--out", "here"]) == 75
    captured = capsys.readouterr()
    assert "no gang starts" in captured.err
    assert "to resume: python -m harness run --resume here" in captured.out
    engine.stop_after = None
    assert cli.main(["run", "--resume", "here"]) == 0


def test_a_fault_of_the_harness_is_no_failed_case(engine, capsys):
    engine.stop_after = (3, RuntimeError("bug"))
    assert cli.main(["run", "--suite", "smoke"]) == 75
    said = capsys.readouterr().err
    assert "RuntimeError: bug" in said
    assert "this is a bug in the harness, not in the code under test" in said


def test_ctrl_c_leaves_a_folder_that_resume_finishes(engine, capsys):
    engine.stop_after = (3, KeyboardInterrupt())
    assert cli.main(["run", "--suite", "smoke", "--out", "here", "--save-tensors"]) == 130
    out = capsys.readouterr().out.splitlines()
    assert out[-2] == "to resume: python -m harness run --resume here"
    assert summary(9, passed=3, not_run=5, skipped=1).match(out[-1])
    assert not any(isinstance(e, RunEnded) for e in RunFolder.open(Path("here")).events())
    first = {case.id for case in engine.calls[0][0].cases[:3]}

    engine.stop_after = None
    assert cli.main(["run", "--resume", "here"]) == 0
    plan, options = engine.calls[1]
    assert len(plan.cases) == 5
    assert not first & {case.id for case in plan.cases}
    assert {job.time_limit for job in plan.jobs} == {33.0}
    assert options.retries == 1
    assert options.rank_options["save_tensors"].endswith("here/tensors")
    assert summary(9, passed=8, skipped=1).match(last_line(capsys))
    assert isinstance(RunFolder.open(Path("here")).events()[-1], RunEnded)


def test_an_interrupt_between_events_ends_the_ranks_too(engine, monkeypatch):
    held = []  # somebody else's reference, so that only closing can end the engine

    def run(plan, options, pool=None):
        held.append(FakeEngine.run(engine, plan, options))
        return held[0]

    def interrupted(self, event):
        raise KeyboardInterrupt

    monkeypatch.setattr(harness.engine.scheduler, "run", run)
    monkeypatch.setattr(progress.Plain, "show", interrupted)
    assert cli.main(["run", "--suite", "smoke"]) == 130
    assert engine.closed == 1


def test_cases_without_a_verdict_run_again_and_others_do_not(engine, capsys):
    engine.verdicts = {
        BASE: Verdict.INFRA,
        f"{BASE}-tp:2": Verdict.NOT_RUN,
        f"{BASE}-seed:1": Verdict.FAILED,
    }
    cli.main(["run", "--suite", "smoke", "--out", "here"])
    engine.verdicts = {}
    assert cli.main(["run", "--resume", "here"]) == 1
    assert [case.id for case in engine.calls[1][0].cases] == [BASE, f"{BASE}-tp:2"]
    assert summary(9, passed=7, failed=1, skipped=1).match(last_line(capsys))
    assert cli.main(["run", "--resume", "here", "--suite", "smoke"]) == 1
    assert engine.calls[2][0].cases == ()


def test_fail_fast_is_incomplete_in_its_counts_and_failed_in_its_code(engine, capsys):
    engine.verdicts = {case.id: Verdict.NOT_RUN for case in seeds_of(1)}
    assert cli.main(["run", "--suite", "smoke", "-x"]) == 2
    assert "to resume: python -m harness run --resume runs/" in capsys.readouterr().out
    engine.verdicts[BASE] = Verdict.FAILED
    assert cli.main(["run", "--suite", "smoke", "-x"]) == 1


def test_a_named_case_that_cannot_run_here_is_no_pass(engine, capsys):
    refused = BASE.replace("experts:torch_loop", "experts:marlin")
    assert cli.main(["run", "--case", BASE, refused]) == 4
    out = capsys.readouterr().out
    assert (
        "1 case(s) were named and cannot run here (reasons above), so the exit code is not 0" in out
    )
    assert summary(2, passed=1, skipped=1).match(out.splitlines()[-1])


def test_outputs_that_disagree_fail_the_run_and_end_it(engine, capsys):
    def sketched(case):
        far = 100.0 if case.tp_size == 2 else 0.0
        sketch = {"token": 0, "values": [far] * 64, "slack": 0.1}
        return CaseResult(case_id=case.id, verdict=Verdict.PASSED, sketches=(sketch,))

    engine._result = sketched
    two = ["--case", BASE, f"{BASE}-tp:2", f"{BASE}-tp:4"]
    assert cli.main(["run", *two]) == 1
    assert summary(3, passed=2, failed=1).match(last_line(capsys))
    assert cli.main(["run", *two, "-x"]) == 1
    out = capsys.readouterr().out
    assert f"disagrees with {BASE}" in out
    assert summary(3, passed=1, failed=1, not_run=1).match(out.splitlines()[-1])


def test_a_resumed_run_is_compared_with_what_it_did_before(engine):
    far = {1: 0.0, 2: 100.0}

    def sketched(case):
        engine.ran += 1
        sketch = {"token": 0, "values": [far[case.tp_size]] * 64, "slack": 0.1}
        return CaseResult(case_id=case.id, verdict=Verdict.PASSED, sketches=(sketch,))

    engine._result = sketched
    engine.stop_after = (1, KeyboardInterrupt())
    assert cli.main(["run", "--case", BASE, f"{BASE}-tp:2", "--out", "here"]) == 130
    engine.stop_after = None
    assert cli.main(["run", "--resume", "here"]) == 1


def seeds_of(seed):
    case = MoETestConfig.from_id(BASE)
    return [
        case.replace(seed=seed, quant=q, tp_size=tp) for q in ("none", "fp8_block") for tp in (1, 2)
    ]


def test_a_recorders_fault_fails_no_test(engine, capsys):
    import shutil

    real = engine._result

    def and_remove(case):
        shutil.rmtree("here", ignore_errors=True)
        return real(case)

    engine._result = and_remove
    assert cli.main(["run", "--case", BASE, "--out", "here"]) == 75
    captured = capsys.readouterr()
    assert "warning: cannot record in 'here'" in captured.err
    assert "the record in 'here' is incomplete" in captured.err
    assert summary(1, passed=1).match(captured.out.splitlines()[-1])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_that_can_go_on(engine, number, code):
    script = (
        "import sys, time\n"
        "import harness.engine.scheduler, harness.plan.machine as m\n"
        "from harness.cli import main\n"
        "def run(plan, options, pool=None):\n"
        "    try:\n"
        "        print('running', flush=True)\n"
        "        time.sleep(30)\n"
        "        yield\n"
        "    finally:\n"
        "        print('closed', flush=True)\n"
        "harness.engine.scheduler.run = run\n"
        "m.detect = lambda: m.planned_for('cpu')\n"
        "sys.exit(main(['run', '--suite', 'smoke', '--out', 'here']))\n"
    )
    root = Path(cli.__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(root)},
    )
    while child.stdout.readline() != "running\n":
        pass
    child.send_signal(number)
    out, _ = child.communicate(timeout=20)
    assert child.returncode == code
    assert out.splitlines()[0] == "closed"
    assert summary(9, not_run=8, skipped=1).match(out.splitlines()[-1])
    assert cli.main(["run", "--resume", "here"]) == 0


# --- the other commands


def test_python_dash_m_runs_the_same():
    root = Path(cli.__file__).parents[1]
    command = [sys.executable, "-m", "harness", "run"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "choose one of --suite" in done.stderr


def test_a_long_list_imports_no_torch():
    root = Path(cli.__file__).parents[1]
    code = (
        "import io, sys, contextlib\n"
        "from harness.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        f"    code = main({['list', *LONG.split()]})\n"
        "heavy = {'torch', 'triton', 'numpy', 'rich', 'moe.types', 'harness.engine.scheduler'}\n"
        "print(code, out.getvalue().count('\\n') > 5_000, sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 True []\n"
