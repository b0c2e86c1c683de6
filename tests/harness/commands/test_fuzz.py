"""The command: its options, the folder it leaves, its budget, and what it says of a failure."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cli import main
from harness.commands import fuzz, fuzz_loop, fuzz_space, strategies
from harness.commands.fuzz_space import space_for
from harness.commands.fuzz_steering import Steering
from harness.errors import ExitCode
from harness.plan import machine
from harness.record.events import CaseEnded
from harness.record.run_folder import RunFolder

ROOT = Path(fuzz.__file__).parents[2]
RIGHT = "tests.harness.outside_layers:Right"
LOSES_THE_THIRD = "tests.harness.commands.fuzz_members:LosesTheThird"
SPOILED = "tests.harness.commands.fuzz_members:SpoiledByOthers"


def test_a_budget_that_is_none_is_refused_by_name(capsys):
    assert main(["fuzz", "--budget", "5d"]) == ExitCode.USAGE
    assert "--budget '5d': give a time such as 90s, 5m or 2h" in capsys.readouterr().err


def test_a_run_leaves_a_folder_like_any_other(tmp_path, capsys):
    folder = tmp_path / "run"
    asked = ["fuzz", "--cases", "5", "--seed", "3", "--experts", "torch_loop"]
    assert main([*asked, "--budget", "60s", "--out", str(folder)]) == ExitCode.PASSED
    said = capsys.readouterr().out
    assert "5 distinct cases, 0 of them bad" in said
    assert "cases=5 passed=5" in said
    events = RunFolder.open(folder).events()
    ended = [event.result.case_id for event in events if isinstance(event, CaseEnded)]
    space = space_for(machine.detect(), "torch_loop")
    first = {case.id for case in Steering(space, 3).batch(0)}
    assert len(set(ended)) == len(ended) == 5
    assert set(ended) <= first
    assert sorted(json.loads((folder / "run.json").read_text())["cases"]) == sorted(ended)


def test_an_interrupted_run_says_what_it_came_to(tmp_path):
    folder = tmp_path / "run"
    asked = ["fuzz", "--experts", "torch_loop", "--budget", "5m", "-v", "--out", str(folder)]
    child = subprocess.Popen(
        [sys.executable, "-m", "harness", *asked], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    while "passed" not in child.stdout.readline():
        pass
    child.terminate()
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 143
    assert re.search(r"^cases=(\d+) passed=\1 ", said.splitlines()[-1])
    assert json.loads((folder / "run.json").read_text())["cases"]


@pytest.fixture
def one_core():
    """Every process on one core: threads that wait for each other cost more than small products."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[os.getpid() % len(cores)]})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def small_space(one_core, monkeypatch):
    """One rank and small sizes, so that a shrink runs few cases, each in a moment."""
    small = {"SEEDS": 1, "SIZES": (64, 128), "EXPERT_COUNTS": (1, 2, 3, 4), "TOP_KS": (1, 2, 3, 4)}
    for name, value in small.items():
        monkeypatch.setattr(strategies, name, value)
    space = dataclasses.replace(
        space_for(machine.detect(), LOSES_THE_THIRD),
        max_world=1,
        tokens=2,
        weights=2**16,
        batch=8,
    )
    monkeypatch.setattr(fuzz_space, "space_for", lambda *_: space)
    return space


def has_one_large_mistake(cases):
    """Return whether one of the cases loses its third expert, and that one is not the smallest."""
    losing = [case for case in cases if case.top_k >= 3]
    return (
        len(cases) == 4
        and len(losing) == 1
        and all(case.m > 1 and case.num_experts > 3 and min(case.n, case.k) > 64 for case in losing)
    )


def test_a_backend_s_mistake_is_found_and_shrunk(small_space, tmp_path, capsys):
    """With a seed that draws the mistake once among the first four cases, among right ones."""
    seed = next(
        seed
        for seed in itertools.count()
        if has_one_large_mistake(Steering(small_space, seed).batch(0)[:4])
    )
    asked = ["fuzz", "--cases", "4", "--experts", LOSES_THE_THIRD, "-x", "--seed", str(seed)]
    code = main([*asked, "--budget", "5m", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert code == ExitCode.FAILED
    assert "cases=4 passed=3 failed=1 " in said.splitlines()[-1]
    last = [line for line in said.splitlines() if line.startswith("smallest failed: ")]
    assert last, said
    for token in ("topk:3", "e:3", "m:1", "n:64", "k:64"):
        assert f"-{token}-" in last[0].replace("--case ", "-"), last[0]
    assert "python -m harness run --case " in last[0]


def test_a_case_that_passes_alone_is_said_to_depend_on_those_before_it(tmp_path, capsys):
    folder = tmp_path / "run"
    asked = ["fuzz", "--cases", "6", "--experts", SPOILED, "--budget", "2m", "--seed", "3"]
    assert main([*asked, "--out", str(folder)]) == ExitCode.FAILED
    said = capsys.readouterr().out.splitlines()
    text = " passes alone: it depends on what ran before it in its gang: "
    dependent = [line.partition(text) for line in said if text in line]
    assert dependent, said
    verdicts = {}
    for event in RunFolder.open(folder).events():
        if isinstance(event, CaseEnded):
            verdicts.setdefault(event.result.case_id, []).append(str(event.result.verdict))
    for case_id, _, before in dependent:
        assert verdicts[case_id][:2] == ["failed", "passed"]
        assert set(before.split()) <= verdicts.keys() - {case_id}
        assert f"failed={sum(v[0] == 'failed' for v in verdicts.values())}" in said[-1]
    assert not [line for line in said if line.startswith("smallest failed: ")]


def test_the_budget_holds_for_real_cases(tmp_path, capsys, monkeypatch):
    """Beside the start of the first gang, which no budget shortens."""
    warm, began = fuzz_loop.Fuzzer.warm, []

    def timed(self, cases):
        warm(self, cases)
        began.append(time.monotonic())

    monkeypatch.setattr(fuzz_loop.Fuzzer, "warm", timed)
    asked = ["fuzz", "--experts", LOSES_THE_THIRD, "--budget", "12s", "--seed", "2"]
    main([*asked, "--out", str(tmp_path / "run")])
    assert time.monotonic() - began[0] < 12 + 10, capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--seed", "-1"], ["--cases", "0"], ["--budget", "soon"]])
def test_options_that_cannot_be_are_usage_errors(wrong, tmp_path):
    assert main(["fuzz", *wrong, "--out", str(tmp_path / "run")]) == ExitCode.USAGE


def test_a_wrong_layer_is_found(tmp_path, capsys):
    wrong = "tests.harness.outside_layers:NotRenormalized"
    folder = ["--out", str(tmp_path / "f"), "--cases", "30", "-x"]
    assert main(["fuzz", "--layer", wrong, "--budget", "40s", *folder]) == 1
    assert f"fuzzing {wrong} with seed 0" in capsys.readouterr().out


def test_a_layer_brings_experts_of_its_own(capsys):
    assert main(["fuzz", "--layer", RIGHT, "--experts", "triton", "--budget", "1s"]) == 3
    assert "--layer has its own experts; leave --experts out" in capsys.readouterr().err


def test_a_models_layer_is_fuzzed(tmp_path, capsys):
    config = {"model_type": "mixtral", "hidden_size": 320, "intermediate_size": 192}
    config |= {"num_local_experts": 8, "num_experts_per_tok": 4, "hidden_act": "silu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = ["fuzz", "--model", str(tmp_path), "--layouts", "tp:1,ep:4/1", "--tokens", "8"]
    folder = tmp_path / "run"
    asked += ["--budget", "90s", "--out", str(folder)]
    assert main([*asked, "--experts", "torch_loop", "--cases", "4"]) == ExitCode.PASSED
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path.name} ({tmp_path}/config.json): hidden 320; intermediate 192")
    assert "cases=4 passed=4" in out
    for case in json.loads((folder / "run.json").read_text())["cases"]:
        assert re.match(r"m:[1-8]-n:192-k:320-e:(8-topk:4|2-of:8-topk:2)-experts:torch_loop", case)


@pytest.mark.skipif(machine.detect().devices > 0, reason="flashinfer_cutlass may run on a GPU")
def test_a_backend_that_runs_no_case_here_is_refused_with_the_reason(tmp_path, capsys):
    argv = [
        "fuzz",
        "--experts",
        "flashinfer_cutlass",
        "--budget",
        "5s",
        "--out",
        str(tmp_path / "f"),
    ]
    assert main(argv) == ExitCode.NOTHING_SELECTED
    said = capsys.readouterr().err
    assert said.startswith(
        "no case of flashinfer_cutlass would run here: platform_lacks_feature: flashinfer_cutlass:"
    )


def test_what_was_assumed_is_told_at_the_end(tmp_path, capsys):
    silent = "tests.harness.checks.rounding_members:Float32"
    argv = ["fuzz", "--experts", silent, "--cases", "2", "--budget", "60s"]
    assert main([*argv, "--out", str(tmp_path / "f")]) == ExitCode.PASSED
    assert f"python -m harness numerics --experts {silent}" in capsys.readouterr().out


def test_what_is_set_is_in_every_case(tmp_path, capsys):
    """Also a router and a layer's options, which no other option names."""
    asked = ["--set", "router:triton_sigmoid-no_renorm", "tp:2", "--cases", "3", "--budget", "60s"]
    folder = tmp_path / "run"
    argv = ["fuzz", "--experts", "torch_loop", *asked, "--out", str(folder)]
    assert main(argv) == ExitCode.PASSED
    assert re.search(r"pairs of values of two axes, at most \d+% of", capsys.readouterr().out)
    cases = json.loads((folder / "run.json").read_text())["cases"]
    assert len(cases) == 3
    for token in ("-tp:2-", "-no_renorm-", "-router:triton_sigmoid"):
        assert all(token in case for case in cases)


def test_values_that_no_case_can_have_together_are_told_with_a_reason(tmp_path, capsys):
    argv = ["fuzz", "--experts", "torch_loop", "--set", "no_ep", "expert_dp:2", "--budget", "5s"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == ExitCode.NOTHING_SELECTED
    text = "no case of torch_loop with --set would run here: expert_dp_impossible: "
    assert capsys.readouterr().err.startswith(text)
