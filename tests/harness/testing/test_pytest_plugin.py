"""The plugin in real pytest runs: options, what they select, the fixture `gang`, and its cost."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.harness.testing import pytest_runs
from tests.harness.testing.pytest_runs import CASES, ONE, REFUSED, ROOT, TWO

LIST = ("--collect-only", "-q")
PLAIN = "def test_plain(): pass\n"


def listed(done):
    return {line for line in done.text.splitlines() if "::" in line and " " not in line}


def test_it_costs_nothing_without_its_options():
    code = (
        "import sys, harness.testing.pytest_plugin; print(sorted({name.split('.')[0] for name in "
        "sys.modules} & {'torch', 'numpy', 'triton', 'pydantic', 'yaml', 'moe', 'xdist'}), "
        "[name for name in sys.modules if name.startswith('harness')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == (
        "[] ['harness', 'harness.testing', 'harness.testing.pytest_plugin']\n"
    ), done.stderr


def test_an_installation_brings_it_and_torch_stays_out_of_the_main_process(tmp_path):
    check = "import sys\ndef pytest_sessionfinish(): print('torch:', 'torch' in sys.modules)\n"
    arguments = (*LIST, "-p", "no:hypothesispytest")
    done = pytest_runs.run(tmp_path, *arguments, files={"conftest.py": check})
    assert listed(done) == CASES | {REFUSED}
    assert "torch: False" in done.text


def test_strict_pytest_takes_its_markers(tmp_path):
    done = pytest_runs.run(tmp_path, *LIST, "--strict-markers", "--strict-config")
    assert listed(done) == CASES | {REFUSED}, done.text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-k", "torch_loop and not seed:1"], {ONE, TWO}),
        (["-m", "world_2"], {TWO, f"{TWO}-seed:1"}),
        (["-m", "suite_small and experts_flashinfer_cutlass"], {REFUSED}),
        (["-m", "moe(seed=1, tp_size=2)"], {f"{TWO}-seed:1"}),
        ([TWO], {TWO}),
        (["--moe-experts", "torch_grouped", "-k", "tp:2-seed:1"],
         {f"{TWO}-seed:1".replace("torch_loop", "torch_grouped")}),
        (["--moe-platform", "cuda_sm90", "-m", "experts_flashinfer_cutlass"], {REFUSED}),
        (["test_plain.py"], CASES | {REFUSED, "test_plain.py::test_plain"}),
        (["."], CASES | {REFUSED, "test_plain.py::test_plain"}),
    ],
)  # fmt: skip
def test_what_is_selected(tmp_path, arguments, expected):
    done = pytest_runs.run(tmp_path, *LIST, *arguments, files={"test_plain.py": PLAIN})
    assert listed(done) == expected, done.text
    assert done.code == 0


def test_tests_beside_the_suite_run_only_if_they_are_named(tmp_path):
    done = pytest_runs.run(tmp_path, *LIST, files={"test_plain.py": PLAIN})
    assert listed(done) == CASES | {REFUSED}
    alone = pytest_runs.run(tmp_path, *LIST, suite=None)
    assert listed(alone) == {"test_plain.py::test_plain"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-k", "nowhere"], 5, "ERROR: no case of suite 'small' ran: none selected"),
        (["-m", "experts_flashinfer_cutlass"], 5, "ran: all 1 case(s) were skipped; -rs shows why"),
        (["test_plain.py", "-k", "plain"], 5, "ERROR: no case of suite 'small' ran: none selected"),
    ],
)
def test_a_run_that_would_test_nothing_fails_with_one_line(tmp_path, arguments, code, words):
    done = pytest_runs.run(tmp_path, *arguments, files={"test_plain.py": PLAIN})
    assert words in done.text, done.text
    assert done.code == code
    assert "Traceback" not in done.text


WRONG = {  # options with the line that pytest ends with, after "ERROR: "
    "--moe-suite smal": "no suite is called 'smal', did you mean 'small'?",
    "--moe-matrix gone.yaml": "cannot read the matrix file '*gone.yaml': No such file",
    "--moe-matrix open.yaml": "*open.yaml:3:1: not valid YAML: while parsing a flow node",
    "--moe-matrix key.yaml": "*key.yaml:6:5: suites.small.time_limit: unknown key, did you mean 't",
    "--moe-matrix type.yaml": "*type.yaml:8:41: suites.small.blocks[0].seed[0]: must be a whole nu",
    "--moe-matrix path.yaml": "case *: cannot load experts 'no.such:Class'",
    "--moe-experts nobody": "no experts backend is called 'nobody'",
    "--moe-layer no.such:Class": "cannot load layers 'no.such:Class'",
    "--moe-layer composed --moe-experts x:Y": "cannot load experts 'x:Y'",
    "--moe-layer a:B --moe-experts triton": "--moe-layer has its own experts; leave --moe-experts ",
    "--moe-platform cuda_sm90": "--moe-platform plans for another chip, and nothing can run: add -",
    "--moe-platform nope --collect-only": "no platform is called 'nope'",
    "--moe-platform cuda_sm90 --moe-devices 0 --co": "--moe-devices must be at least 1, not 0",
    "--moe-devices 99": "--moe-devices 99: this machine has ",
    "--moe-retries -1": "--moe-retries must be at least 0, not -1",
    "--moe-retries -1 -n 2": "--moe-retries must be at least 0, not -1",
    "--moe-time-limit inf": "--moe-time-limit must be more than 0 and at most 1,000,000 seconds",
    "--moe-time-limit nan": "--moe-time-limit must be more than 0 and at most 1,000,000 seconds",
    "--moe-known-failures gone": "cannot read the file of known failures 'gone': No such file",
    "--moe-known-failures known.yaml -n 2": "known.yaml:1:1: must be a mapping, not 3",
    "--moe-out m.yaml": "--moe-out: '*m.yaml' is there already; choose a new folder",
    "--moe-out m.yaml/x": "--moe-out: cannot make the run folder '*': *m.yaml is not a folder",
    "-k ((": "Wrong expression passed to '-k': ((",
    "-k seed --moe-out out -m ((": "Wrong expression passed to '-m': ((",
    "m.yaml::small::world9": "not found: *m.yaml::small::world9",
    "nofile.py": "file or directory not found: nofile.py",
    "--moe-suit small": "unrecognized arguments: --moe-suit",
    "--moe-retries x": "argument --moe-retries: invalid int value: 'x'",
}
ERROR = re.compile("(?:ERROR|python -m pytest: error): (?!usage:)")
FILES = {
    "open.yaml": "version: 1\nsuites: {small: [\n",
    "key.yaml": pytest_runs.MATRIX.replace("time_limit_s", "time_limit"),
    "type.yaml": pytest_runs.MATRIX.replace("[0, 1]", "[a]"),
    "path.yaml": pytest_runs.MATRIX.replace("torch_loop]", '"no.such:Class"]'),
    "known.yaml": "3\n",
}


@pytest.mark.parametrize("options", WRONG)
def test_a_wrong_option_ends_pytest_with_its_usage_code_and_one_line(tmp_path, options):
    done = pytest_runs.run(tmp_path, *options.split(), files=FILES)
    words = ".*".join(map(re.escape, WRONG[options].split("*")))
    lines = [line for line in done.text.splitlines() if ERROR.match(line)]
    assert len(lines) == 1, done.text
    assert re.match(ERROR.pattern + words, lines[0])
    assert (done.code, done.left) == (4, [])
    assert "Traceback" not in done.text
    assert "INTERNALERROR" not in done.text
    names = {path.name for path in tmp_path.iterdir()}
    assert names - {".pytest_cache", "junit.xml", "site"} == {"m.yaml", *FILES}


def test_other_options_need_a_suite(tmp_path):
    done = pytest_runs.run(tmp_path, "--moe-retries", "1", suite=None)
    assert "ERROR: --moe-retries goes with --moe-suite NAME" in done.text
    assert done.code == 4


def test_a_run_of_skips_fails_with_workers_too(tmp_path):
    done = pytest_runs.run(tmp_path, "-n", "1", suite="nothing")
    assert "ERROR: no case of suite 'nothing' ran: all 1 case(s) were skipped" in done.text
    assert (done.code, done.left) == (5, [])


GANG = """
import os
import pytest
import torch
import torch.distributed as dist

pids = []

def pid_and_sum(factor):
    value = torch.tensor([dist.get_rank() * factor])
    dist.all_reduce(value)
    return os.getpid(), value.item(), os.environ.get("OF_THE_TEST")

def fails_on_one():
    if dist.get_rank() == 1:
        raise KeyError("of rank 1")

@pytest.mark.world_size(3)
def test_values(gang):
    results = gang(pid_and_sum, 10)
    assert gang.world_size == len(results) == 3
    assert {total for _, total, _ in results} == {30}
    pids.append([pid for pid, *_ in results])

@pytest.mark.world_size(3)
def test_ranks_stay_warm(gang):
    assert [pid for pid, *_ in gang(pid_and_sum, 1)] == pids[0]

@pytest.mark.world_size(3)
def test_ranks_see_the_environment_of_their_test(gang, monkeypatch):
    monkeypatch.setenv("OF_THE_TEST", "1")
    assert {text for *_, text in gang(pid_and_sum, 1)} == {"1"}

@pytest.mark.parametrize("gang", [1, 2], indirect=True)
def test_sizes(gang):
    assert len(gang(pid_and_sum, 1)) == gang.world_size

@pytest.mark.world_size(2, timeout=30)
def test_failure(gang):
    gang(fails_on_one)

def test_without_a_mark(gang):
    pass

@pytest.mark.world_size(2, device="tpu")
def test_wrong_device(gang):
    pass
"""


def test_the_fixture_gives_a_test_its_ranks(tmp_path):
    done = pytest_runs.run(tmp_path, suite=None, files={"test_gang.py": GANG})
    assert "5 passed, 1 failed" in done.text.replace("1 failed, 5 passed", "5 passed, 1 failed")
    outcomes = dict(done.outcomes)
    assert outcomes["test_gang.py::test_failure"] == "FAILED"
    assert "KeyError: 'of rank 1'" in done.text
    assert "mark the test with @pytest.mark.world_size(4)" in done.text
    assert "@pytest.mark.world_size: device must be one of cpu, cuda, not 'tpu'" in done.text
    assert done.text.count("ERROR at setup") == 2
    assert (done.code, done.left) == (1, [])


def test_an_interrupt_in_a_case_leaves_nothing_behind(tmp_path):
    stops = (
        "import os, signal, threading\n"
        "def pytest_runtest_call(item):\n"
        "    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    )
    done = pytest_runs.run(tmp_path, "-k", "seed:1", files={"conftest.py": stops})
    assert "KeyboardInterrupt" in done.text
    assert (done.code, done.left) == (2, [])
    assert "passed" not in done.text
