"""The fuzzer: what it draws, that a seed repeats it, how it shrinks, what a run of it leaves."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cli import main
from harness.commands import fuzz, strategies
from harness.errors import ExitCode, UsageError
from harness.matrix.case import MoETestConfig
from harness.matrix.exactness import is_bitwise
from harness.plan import cost, machine
from harness.plan.plan import make_plan
from harness.record.events import CaseEnded
from harness.record.run_folder import RunFolder
from moe.errors import UnknownMemberError
from moe.experts import EXPERTS

CPU = dataclasses.replace(machine.planned_for("cpu"), planned=False)
SPACE = strategies.space_for(CPU)
BATCHES = 4
ROOT = Path(fuzz.__file__).parents[2]


@pytest.fixture(scope="module")
def drawn():
    return [case for number in range(BATCHES) for case in fuzz.batch(SPACE, 0, number)]


@pytest.mark.parametrize(("text", "found"), [("90s", 90), ("5m", 300), ("1.5h", 5400)])
def test_a_budget_is_a_time(text, found):
    assert fuzz.seconds(text) == found


@pytest.mark.parametrize("text", ["5", "0s", "m", "-1m", "5 m", "5d"])
def test_a_budget_that_is_none_is_refused_by_name(text):
    with pytest.raises(UsageError, match=r"--budget .*: give a time such as 90s, 5m or 2h"):
        fuzz.seconds(text)


def test_one_seed_draws_one_sequence(drawn):
    again = [case for number in range(BATCHES) for case in fuzz.batch(SPACE, 0, number)]
    other = [case for number in range(BATCHES) for case in fuzz.batch(SPACE, 1, number)]
    assert drawn == again
    assert drawn != other


def test_a_batch_repeats_no_case(drawn):
    first = fuzz.batch(SPACE, 0, 0)
    assert len({case.id for case in first}) == len(first) == SPACE.batch
    assert len({case.id for case in drawn}) > 0.9 * len(drawn)


def test_the_plan_refuses_nothing_that_is_drawn(drawn):
    assert make_plan(drawn, CPU).refused == ()


@pytest.mark.parametrize(
    "name",
    ["experts", "quant", "dtype", "world_size", "use_ep", "sequence_parallel", "tokens", "k"],
)
def test_every_field_takes_many_values(name, drawn):
    possible = {
        "experts": 3,
        "quant": 5,
        "dtype": 3,
        "world_size": 4,
        "use_ep": 2,
        "sequence_parallel": 2,
        "tokens": 3,
        "k": 12,
    }
    assert len({getattr(case, name) for case in drawn}) >= possible[name]


def test_some_cases_are_exact_ones_of_every_method(drawn):
    exact = [case for case in drawn if case.exact]
    assert 0.01 < len(exact) / len(drawn) < 0.15
    assert all(is_bitwise(case) for case in exact)
    assert len({case.quant for case in exact}) >= 4


def test_an_exact_case_is_made_simpler_by_what_keeps_it_so():
    exact = MoETestConfig(
        experts="torch_loop",
        m=4,
        n=256,
        k=256,
        num_experts=8,
        top_k=4,
        shared_experts=1,
        exact=True,
    )
    found = list(strategies.simpler(SPACE, exact))
    assert found[0] == exact.replace(exact=False)
    assert {case.top_k for case in found} == {1, 2, 4}
    assert all(is_bitwise(case) for case in found[1:])


def test_interpreted_kernels_are_kept_small(drawn):
    slow = [case for case in drawn if "triton" in EXPERTS.row(case.experts).needs.features]
    assert slow
    assert max(cost.interpreted_seconds(case.problem, CPU.cores) for case in slow) < 2


def test_a_machine_with_devices_is_given_larger_cases():
    space = strategies.space_for(machine.planned_for("cuda_sm90", 2))
    cases = [case for number in range(3) for case in fuzz.batch(space, 0, number)]
    assert max(case.world_size for case in cases) == 8
    assert max(case.num_experts * case.n * case.k for case in cases) > SPACE.weights


def test_an_unknown_backend_is_refused():
    with pytest.raises(UnknownMemberError, match="nobody"):
        strategies.space_for(CPU, "nobody")


def _wrong(case):
    return case.top_k >= 3 and case.world_size >= 2


def test_shrinking_ends_at_the_smallest_case_that_still_fails(drawn):
    failing = next(case for case in fuzz.batch(SPACE, 0, 1) if _wrong(case) and case.seed)
    least = fuzz.shrink(SPACE, 0, 1, failing, _wrong)
    simple = {"m": 1, "top_k": 3, "num_experts": 3, "quant": "none", "shared_experts": 0, "seed": 0}
    assert least.world_size == 2
    assert {name: getattr(least, name) for name in simple} == simple
    assert (least.n, least.k) == (strategies.SIZES[0], strategies.SIZES[0])


def test_the_case_that_is_shrunk_is_the_one_that_was_asked_for():
    """Others of its batch fail as well, earlier ones among them."""
    tried, cases = [], fuzz.batch(SPACE, 0, 1)
    wanted = [case for case in cases if _wrong(case)][-1]

    def never(case):
        tried.append(case)
        return False

    assert fuzz.shrink(SPACE, 0, 1, wanted, never) == wanted
    assert tried
    assert not set(cases[: cases.index(wanted)]) <= set(tried)


def test_a_run_leaves_a_folder_like_any_other(tmp_path, capsys):
    folder = tmp_path / "run"
    asked = ["fuzz", "--cases", "5", "--seed", "3", "--experts", "torch_loop"]
    assert main([*asked, "--budget", "60s", "--out", str(folder)]) == ExitCode.PASSED
    said = capsys.readouterr().out
    assert "5 distinct cases, 0 of them bad" in said
    assert "cases=5 passed=5" in said
    events = RunFolder.open(folder).events()
    ended = [event.result.case_id for event in events if isinstance(event, CaseEnded)]
    first = {
        case.id for case in fuzz.batch(strategies.space_for(machine.detect(), "torch_loop"), 3, 0)
    }
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


def test_a_backend_s_mistake_is_found_and_shrunk(tmp_path, capsys):
    asked = [
        "fuzz",
        "--cases",
        "20",
        "--experts",
        "tests.harness.commands.fuzz_members:LosesTheThird",
        "-x",
    ]
    code = main([*asked, "--budget", "5m", "--seed", "2", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert code == ExitCode.FAILED
    last = [line for line in said.splitlines() if line.startswith("smallest failed: ")]
    assert last, said
    for token in ("topk:3", "e:3", "m:1", "n:64", "k:64"):
        assert f"-{token}-" in last[0].replace("--case ", "-"), last[0]
    assert "python -m harness run --case " in last[0]


SPOILED = "tests.harness.commands.fuzz_members:SpoiledByOthers"


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


def test_the_budget_holds_for_shrinking_too(tmp_path, capsys, monkeypatch):
    """Beside the start of the first gang, which no budget shortens."""
    real, began = fuzz.Fuzzer.warm, []

    def warm(self, cases):
        real(self, cases)
        began.append(time.monotonic())

    monkeypatch.setattr(fuzz.Fuzzer, "warm", warm)
    member = "tests.harness.commands.fuzz_members:LosesTheThird"
    asked = ["fuzz", "--experts", member, "--budget", "12s", "--seed", "2"]
    main([*asked, "--out", str(tmp_path / "run")])
    took = time.monotonic() - began[0]
    assert took < 12 + 10, capsys.readouterr().out


def test_shrinking_ends_in_time_with_the_simplest_so_far():
    failing = next(case for case in fuzz.batch(SPACE, 0, 1) if _wrong(case) and case.seed)
    tried = []

    def fails(case):
        tried.append(case)
        time.sleep(0.05)
        return _wrong(case)

    began = time.monotonic()
    least = fuzz.shrink(SPACE, 0, 1, failing, fails, until=began + 1.5)
    assert time.monotonic() - began < 5
    assert _wrong(least)
    assert fuzz.shrink(SPACE, 0, 1, failing, fails, until=0) == failing


@pytest.mark.parametrize("wrong", [["--seed", "-1"], ["--cases", "0"], ["--budget", "soon"]])
def test_options_that_cannot_be_are_usage_errors(wrong, tmp_path):
    assert main(["fuzz", *wrong, "--out", str(tmp_path / "run")]) == ExitCode.USAGE


# --- a whole layer


RIGHT = "tests.harness.outside_layers:Right"


def test_only_what_a_layer_takes_is_drawn():
    space = dataclasses.replace(strategies.space_for(CPU, layer=RIGHT), batch=40)
    drawn = fuzz.batch(space, 0, 0)
    assert len(drawn) > 20
    assert {(c.layer, c.experts, c.all2all, c.quant, c.exact) for c in drawn} == {
        (RIGHT, "own", "allgather_reducescatter", "none", False)
    }
    assert {c.dp_size for c in drawn} == {1}
    assert {1, 2} <= {c.tp_size for c in drawn}
    assert not any(c.sequence_parallel for c in drawn)
    assert {True, False} == {c.renormalize for c in drawn}


def test_a_wrong_layer_is_found(tmp_path, capsys):
    wrong = "tests.harness.outside_layers:NotRenormalized"
    folder = ["--out", str(tmp_path / "f"), "--cases", "4", "-x"]
    assert main(["fuzz", "--layer", wrong, "--budget", "20s", *folder]) == 1
    assert f"fuzzing {wrong} with seed 0" in capsys.readouterr().out


def test_a_layer_brings_experts_of_its_own(capsys):
    assert main(["fuzz", "--layer", RIGHT, "--experts", "triton", "--budget", "1s"]) == 3
    assert "--layer brings experts of its own; leave --experts out" in capsys.readouterr().err
