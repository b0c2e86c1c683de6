"""The extension rule: a file or a folder and a row add a member to a family, and no more does.

The sources lie in `tests/extra_rows`. Each test copies those of one family into a folder of its
own, registers the row as another package would, by an entry point, and runs a suite of real cases
by the command line. Then one line of the member is made wrong, and a case must fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.record.run_folder import RunFolder
from moe import families
from moe.platforms.detect import devices

ROOT = Path(__file__).parents[1]
EXTRA = ROOT / "tests" / "extra_rows"
SHAPES = "shapes: [[6, 64, 128]]"
LAYOUTS = "layouts: [{}, {dp: 2, ep: true}]"
CASE = "m:6-n:64-k:128-e:4-topk:2"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A member of one family.

    sources: files and folders of `tests/extra_rows`. groups: of their entry points. axes: lines of
    the suite's block. passes: how many cases that gives. member: what its class is called in
    results. wrong: a file, a text in one line of it and what makes that line wrong; case: what
    then fails.
    """

    sources: tuple[str, ...]
    groups: tuple[str, ...]
    axes: tuple[str, ...]
    passes: int
    member: str | None = None
    wrong: tuple[str, str, str]
    case: str
    environment: dict[str, str] = field(default_factory=dict)


TRIALS = {
    "experts": Trial(
        sources=("by_token",),
        groups=("moe.experts",),
        axes=(
            "experts: [by_token]",
            "dtype: [bf16, f32]",
            "activation: [silu, gelu_tanh]",
            LAYOUTS,
        ),
        passes=8,
        member="ByToken",
        wrong=("by_token/member.py", "routing.topk_weights[token, slot] * y", "y"),
        case=f"{CASE}-experts:by_token",
    ),
    "all2all": Trial(
        sources=("gather_and_sum",),
        groups=("moe.all2all",),
        axes=(
            "experts: [torch_loop]",
            "all2all: [gather_and_sum]",
            "tokens: [even, ragged]",
            "layouts: [{dp: 2}, {dp: 2, ep: true}, {tp: 2, ep: true, sp: true}]",
        ),
        passes=6,
        member="GatherAndSum",
        wrong=("gather_and_sum/member.py", "start = self.group.rank * max", "start = 0 * max"),
        case=f"{CASE}-experts:torch_loop-a2a:gather_and_sum-dp:2-ep",
    ),
    "quant": Trial(  # with a number format of its own
        sources=("s8_matrix",),
        groups=("moe.formats", "moe.quant"),
        axes=(
            "experts: [torch_loop]",
            "quant: [s8_weights]",
            "dtype: [bf16, fp16]",
            "shared_experts: [0, 1]",
            LAYOUTS,
        ),
        passes=8,
        member="S8Weights",
        wrong=("s8_matrix/codec.py", ".round()", ".floor()"),
        case=f"{CASE}-experts:torch_loop-quant:s8_weights",
    ),
    "router": Trial(
        sources=("sqrt_softplus",),
        groups=("moe.routers",),
        axes=(
            "experts: [torch_loop, torch_grouped]",
            "router: [sqrt_softplus]",
            "renormalize: [true, false]",
            LAYOUTS,
        ),
        passes=8,
        member="SqrtSoftplusTopK",
        wrong=("sqrt_softplus/member.py", ".sqrt()", ""),
        case=f"{CASE}-experts:torch_loop-router:sqrt_softplus",
    ),
    "activation": Trial(
        sources=("quick_gelu",),
        groups=("moe.activations",),
        axes=(
            "experts: [torch_loop, torch_grouped]",
            "activation: [quick_gelu]",
            "shared_experts: [0, 1]",
            LAYOUTS,
        ),
        passes=8,
        wrong=("quick_gelu/member.py", "sigmoid(1.702 * gate) * up\n", "sigmoid(gate) * up\n"),
        case=f"{CASE}-experts:torch_loop-act:quick_gelu",
    ),
    "layer": Trial(
        sources=("dense_layer",),
        groups=("moe.layers",),
        axes=(
            "experts: [own]",
            "layer: [dense_layer]",
            "renormalize: [true, false]",
            "layouts: [{}, {tp: 2}]",
        ),
        passes=4,
        member="DenseLayer",
        wrong=("dense_layer/member.py", "(silu(gate) * up)", "(silu(up) * gate)"),
        case=f"{CASE}-experts:own-layer:dense_layer",
    ),
    "platform": Trial(
        sources=("desk_chip.py",),
        groups=("moe.platforms",),
        axes=("experts: [torch_loop, torch_grouped]", "dtype: [bf16]", LAYOUTS),
        passes=4,
        wrong=("desk_chip.py", 'arch="desk1", detector', 'arch="desk2", detector'),
        case=f"{CASE}-experts:torch_loop",
        environment={"DESK_CHIP": "1"},
    ),
    "check": Trial(
        sources=("contiguous.py",),
        groups=("moe.checks",),
        axes=("experts: [torch_loop, torch_grouped]", LAYOUTS),
        passes=4,
        wrong=("contiguous.py", "if not call", "if call"),
        case=f"{CASE}-experts:torch_loop",
    ),
}
BY_NAME = pytest.mark.parametrize("family", TRIALS)


def sections() -> dict[str, str]:
    """The parts of CONTRIBUTING on one family each, by the entry-point group that they name."""
    _, *parts = (ROOT / "CONTRIBUTING.md").read_text().split("\n### ")
    named = {re.findall(r"group\s+`(moe\.\w+)`", part)[0]: part for part in parts}
    assert len(named) == len(parts), "a section a family"
    return {group: part.partition("\n## ")[0] for group, part in named.items()}


def entry_points() -> ConfigParser:
    parser = ConfigParser()
    parser.read_string((EXTRA / "extra_rows-1.dist-info" / "entry_points.txt").read_text())
    return parser


def install(folder: Path, *trials: Trial) -> Path:
    """Copy the sources of some families, and register their rows alone."""
    info, written = folder / "extra_rows-1.dist-info", entry_points()
    info.mkdir()
    shutil.copy(EXTRA / info.name / "METADATA", info)
    groups = [group for trial in trials for group in trial.groups]
    lines = (f"[{g}]\n{name} = {row}\n" for g in groups for name, row in written[g].items())
    (info / "entry_points.txt").write_text("".join(lines))
    for source in (EXTRA / name for trial in trials for name in trial.sources):
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__py*"))
        else:
            shutil.copy(source, folder)
    return folder


def edit(file: Path, text: str, other: str) -> None:
    """Replace what stands in the file exactly once."""
    source = file.read_text()
    assert source.count(text) == 1
    file.write_text(source.replace(text, other))


def harness(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the folder and the repository on the path, and nothing else."""
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "harness", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


def run_suite(folder: Path, trial: Trial) -> RunFolder:
    """Run the family's suite, which must be green, and open its folder."""
    block = [SHAPES, "num_experts: [4]", "top_k: [2]", *trial.axes]
    lines = ["version: 1", "suites:", "  trial:", "    description: one member's cases"]
    lines += ["    time_limit_s: 60", "    blocks:", f"      - {block[0]}"]
    lines += [f"        {line}" for line in block[1:]]
    (folder / "matrix.yaml").write_text("\n".join(lines))
    words = ("run", "--config", "matrix.yaml", "--suite", "trial", "--out", "out")
    done = harness(folder, *words, **trial.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f" passed={trial.passes} failed=0" in done.stdout
    return RunFolder.open(folder / "out")


@BY_NAME
def test_a_suite_of_the_new_member_is_green(family, tmp_path):
    trial = TRIALS[family]
    if family == "platform" and devices():
        pytest.skip("a GPU comes before a CPU of another package")
    run = run_suite(install(tmp_path, trial), trial)
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    results = [event["result"] for event in events if event["event"] == "CaseEnded"]
    assert len(results) == trial.passes
    if trial.member is not None:
        assert {result["members"][family] for result in results} == {trial.member}
    elif family == "activation":
        assert all(result["case_id"].endswith("-act:quick_gelu") for result in results)
    elif family == "platform":
        assert run.info.platform.name == "desk_chip"
    else:
        assert all("contiguous" in result["phases"] for result in results)


@BY_NAME
def test_a_new_member_that_is_wrong_in_one_line_is_no_pass(family, tmp_path):
    trial = TRIALS[family]
    name, text, other = trial.wrong
    edit(install(tmp_path, trial) / name, text, other)
    words = ("run", "--case", trial.case, "--retries", "0")
    done = harness(tmp_path, *words, **trial.environment)
    if family == "platform":  # no row knows what was detected
        assert done.returncode == 4, done.stdout + done.stderr
        assert "nothing would run here" in done.stdout + done.stderr
    else:
        assert done.returncode == 1, done.stdout + done.stderr
        assert " passed=0 failed=1" in done.stdout


def test_what_a_new_check_finds_fails_a_case_that_others_pass(tmp_path):
    layer, check = TRIALS["layer"], TRIALS["check"]
    words = ("run", "--case", layer.case, "--retries", "0")
    for name, trials, code in (("without", (layer,), 0), ("with", (layer, check), 1)):
        (tmp_path / name).mkdir()
        folder = install(tmp_path / name, *trials)
        edit(
            folder / "dense_layer/member.py", "out.to(x.dtype)", "out.to(x.dtype).T.contiguous().T"
        )
        done = harness(folder, *words)
        assert done.returncode == code, done.stdout + done.stderr
    assert "the output is not contiguous: its strides are (1, 6)" in done.stdout


def test_the_truth_of_a_new_format_is_what_judges(tmp_path):
    trial = TRIALS["quant"]
    edit(install(tmp_path, trial) / "s8_matrix/truth.py", "1.0", "4.0")
    done = harness(tmp_path, "run", "--case", trial.case, "--retries", "0")
    assert done.returncode == 1
    assert " passed=0 failed=1" in done.stdout


def test_what_a_new_format_does_not_promise_or_a_backend_not_name_is_refused(tmp_path):
    trial = TRIALS["quant"]
    triton = trial.case.replace("torch_loop", "triton")
    install(tmp_path, trial)
    done = harness(tmp_path, "run", "--case", f"{trial.case}-exact", triton, trial.case)
    assert " passed=1 failed=0" in done.stdout
    assert "1 exact_unsupported" in done.stdout
    assert "1 weight_format_unsupported" in done.stdout


def test_a_format_s_promise_that_does_not_hold_is_no_pass(tmp_path):
    """One scale for gate and up: beside int8's largest code `up` is lost."""
    trial = TRIALS["quant"]
    edit(install(tmp_path, trial) / "s8_matrix/spec.py", "exact_scale=False", "exact_scale=True")
    done = harness(tmp_path, "run", "--case", f"{trial.case}-exact", "--retries", "0")
    assert done.returncode == 1
    assert " passed=0 failed=0" in done.stdout


def test_every_family_is_tried_and_has_an_extra_row():
    assert set(TRIALS) == {*families.FAMILIES, "check"}
    tried = {group for trial in TRIALS.values() for group in trial.groups}
    assert tried == set(entry_points().sections())
    tables = {f"moe.{table.family}" for _, table in families.tables()}
    assert tried == {*tables, "moe.checks", "moe.formats"}


def test_the_folder_on_the_path_adds_a_row_to_every_table():
    code = (
        "from harness.checks import all_checks\n"
        "from moe import families\n"
        "from moe.formats import FORMATS\n"
        "print(*(list(table.rows)[-1] for _, table in families.tables()))\n"
        "print(list(FORMATS.rows)[-1], all_checks()[-1].name)\n"
    )
    path = os.pathsep.join([str(EXTRA), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    registered = entry_points()
    names = {f"moe.{table.family}": None for _, table in families.tables()}
    expected = [next(iter(registered[group])) for group in (*names, "moe.formats", "moe.checks")]
    assert done.stdout.split() == expected


@BY_NAME
def test_contributing_has_the_steps_of_each_family(family):
    trial, parts = TRIALS[family], sections()
    for group in trial.groups:
        text = " ".join(parts[group].split())
        table = "harness/checks" if family == "check" else group.replace(".", "/")
        assert f"`{table}/__init__.py`" in text
        assert (ROOT / table / "__init__.py").is_file()
        assert all(f"Example: `{source}`" in text for source in trial.sources)
        files = {path.name for path in (EXTRA / trial.sources[0]).glob("[a-z]*.py")}
        if {"spec.py", "truth.py"} <= files and group != "moe.quant":
            needed = files - {"method.py"}
            assert all(f"`{name}`" in text for name in needed), "each file of the folder is named"


def test_contributing_has_no_other_sections():
    assert set(sections()) == {group for trial in TRIALS.values() for group in trial.groups}
