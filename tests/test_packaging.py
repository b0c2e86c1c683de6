"""The two commands of a fresh machine, and what CI is told: Makefile, set-up, pipeline."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from harness.commands.ci import request_of
from harness.commands.options import parse
from harness.errors import ExitCode, InfrastructureError
from harness.plan import machine, requirements
from harness.plan.pipelines import buildkite, vllm
from harness.plan.pipelines.checks import problems
from moe.platforms.detect import devices
from scripts import setup_env
from scripts.setup_env import SetupError

ROOT = Path(__file__).resolve().parents[1]
SUITE_HERE = "ci" if devices() else "smoke"


def make(*arguments, dry=True, path=None):
    command = [shutil.which("make"), *(["-n"] if dry else []), *arguments]
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "PYTHON"
    }
    environment |= {"PATH": path} if path else {}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def reported(*packages):
    """What pip's --report holds of these packages, as far as it is read."""
    return {"install": [{"metadata": {"name": name, "version": "1.2"}} for name in packages]}


# make


def test_test_matrix_runs_the_suite_that_fits_the_machine():
    done = make("test-matrix", f"PYTHON={sys.executable}")
    assert f"{sys.executable} -m harness run --suite {SUITE_HERE}" in done.stdout
    assert ".venv/bin/python -m harness run --suite x" in make("test-matrix", "SUITE=x").stdout


def test_suite_args_and_python_are_taken():
    done = make("test-matrix", "SUITE=nightly", "ARGS=-x --seeds 2", "PYTHON=/opt/python")
    assert "/opt/python -m harness run --suite nightly -x --seeds 2\n" in done.stdout
    assert "/opt/python scripts/setup_env.py --as-is" in done.stdout


def test_test_sets_up_checks_and_tests():
    steps = make("test").stdout
    order = [
        "setup_env.py",
        "ruff check",
        "ruff format --check",
        "mypy",
        "lint_imports_command()",
        "pytest -n",
    ]
    assert [steps.find(step) for step in order] == sorted(steps.find(step) for step in order)
    assert all(step in steps for step in order)


def test_a_python_of_ones_own_gets_the_tree_on_its_path():
    plain = make("test-matrix", "SUITE=x", "PYTHON=true", dry=False)
    assert plain.returncode == 0, plain.stderr
    show = ROOT / "Makefile"
    database = subprocess.run(
        ["make", "-p", "-n", "-f", show, "help", f"PYTHON={sys.executable}"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "/else"},
    )  # fmt: skip
    assert f"PYTHONPATH := {ROOT}:/else" in database.stdout


def test_a_python_that_is_too_old_is_one_line():
    done = make("setup", "PYTHON=false", dry=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "set-up: PYTHON=false is no Python 3.11 or later"


def test_no_python_is_one_line(tmp_path):
    (tmp_path / "sh").symlink_to("/bin/sh")
    done = make("setup", dry=False, path=str(tmp_path))
    assert done.returncode == 2
    first = done.stderr.splitlines()[0]
    assert re.match(
        r"set-up: Python 3\.11 or later is needed, and none of python3 .* is one", first
    )


def test_the_tests_run_with_one_more_row_in_every_table():
    steps = make("test-extra-rows", f"PYTHON={sys.executable}").stdout
    assert f"PYTHONPATH={ROOT}/tests/extra_rows:{ROOT}" in steps
    assert f"{sys.executable} -m pytest -n 2 --dist loadfile" in steps
    venv = make("test-extra-rows").stdout
    assert re.search(
        rf"^PYTHONPATH={ROOT}/tests/extra_rows\S* \.venv/bin/python -m pytest", venv, re.M
    )


def test_ci_runs_its_commands():
    script = ROOT / ".ci" / "run"
    lines = script.read_text().splitlines()
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in lines
    steps = ["make test", "make test-extra-rows", "make test-matrix SUITE=smoke"]
    released = ["make test-subjects", "make test-matrix SUITE=subjects EXTRAS=subjects"]
    assert [line.strip() for line in lines if line.strip().startswith("make ")] == [
        *steps,
        *released,
    ]
    # A slow machine leaves the second run of the tests out, and says so.
    assert any(line.strip().startswith('echo "test-extra-rows: left out') for line in lines)


def test_the_tests_of_released_packages_install_them():
    steps = make("test-subjects").stdout
    assert "scripts/setup_env.py --extras 'subjects'" in steps
    named = re.findall(r"tests/moe/\S+\.py", steps)
    assert "tests/moe/test_released.py" in named
    assert [path for path in named if not (ROOT / path).exists()] == []
    tests = {str(p.relative_to(ROOT)) for p in (ROOT / "tests" / "moe").rglob("test_*.py")}
    asking = {path for path in tests if "released_subjects" in (ROOT / path).read_text()}
    assert asking <= set(named), "a file that is skipped without the packages runs with them"


def test_the_tests_on_ray_install_it():
    steps = make("test-ray").stdout
    assert "scripts/setup_env.py --extras 'ray'" in steps
    named = re.findall(r"tests/\S+\.py", steps)
    assert {Path(path) for path in named} == {
        path.relative_to(ROOT) for path in ROOT.glob("tests/harness/engine/test_ray_*.py")
    }


# The set-up.


def test_the_set_up_needs_the_standard_library_only():
    command = [sys.executable, "-I", "-S", "scripts/setup_env.py", "--suite"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{SUITE_HERE}\n", "")


def test_cpu_versions_are_exact_and_allowed_by_the_project():
    lines = setup_env.CONSTRAINTS.read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins == {"torch": "2.13.0", "triton": "3.9.0", "numpy": "2.4.6"}
    wanted = map(Requirement, setup_env.project()["project"]["dependencies"])
    allowed = {each.name: each.specifier for each in wanted}
    assert all(allowed[name].contains(version) for name, version in pins.items())


def test_cuda_packages_are_refused_with_the_way_out():
    with pytest.raises(SetupError) as caught:
        setup_env.refuse_cuda(reported("torch", "nvidia-cublas", "cuda-bindings", "numpy"))
    text = str(caught.value)
    assert text.startswith("this machine has no GPU, but pip would bring 2 CUDA packages (cuda-b")
    assert "PIP_FIND_LINKS" in text
    assert "make PYTHON=/path/to/python" in text
    assert "\n" not in text


def test_cpu_builds_pass_the_guard():
    setup_env.refuse_cuda(reported("torch", "numpy", "nvidia-ml-py", "cudatext"))


def test_a_conflict_that_cuda_builds_cause_is_told_as_cuda(monkeypatch):
    def resolve(wanted, *constraint):
        if constraint:
            raise SetupError("pip failed: conflicting dependencies")
        assert wanted == ["torch==2.13.0"]
        return reported("torch", "nvidia-nccl-cu13")

    monkeypatch.setattr(setup_env, "resolve", resolve)
    with pytest.raises(SetupError, match="1 CUDA packages"):
        setup_env.resolve_without_cuda(["torch>=2.11", "numpy"])


def test_another_conflict_keeps_its_own_words(monkeypatch):
    def resolve(wanted, *constraint):
        if constraint:
            raise SetupError("pip failed: no network")
        return reported("torch")

    monkeypatch.setattr(setup_env, "resolve", resolve)
    with pytest.raises(SetupError, match="no network"):
        setup_env.resolve_without_cuda(["torch>=2.11"])


def test_an_unknown_extra_names_the_known_ones():
    with pytest.raises(SetupError, match=r"no extra is called 'cudda' \(known: cuda, dev"):
        setup_env.requirements(setup_env.project(), frozenset({"cudda"}))


def test_flashinfer_comes_by_its_extra_only():
    config = setup_env.project()
    plain = setup_env.requirements(config, frozenset({"dev"}))
    assert not [line for line in plain if line.startswith("flashinfer")]
    extra = setup_env.requirements(config, frozenset({"cuda"}))
    assert [line for line in extra if line.startswith("flashinfer-python")]


def test_released_code_comes_without_what_its_tested_parts_do_not_import():
    config = setup_env.project()
    wanted = setup_env.requirements(config, frozenset({"subjects"}))
    alone = setup_env.without_requirements(config)
    with_theirs, bare = setup_env.split(wanted, alone)
    assert bare == ["flashinfer-bench==0.1.2", "sglang==0.5.23", "torchtitan==0.3.0"]
    assert sorted([*with_theirs, *bare]) == sorted(wanted)
    names = {Requirement(line).name for line in with_theirs}
    assert {"docstring_parser", "transformers", "spmd_types", "tyro"} <= names


def test_packages_that_come_alone_are_of_some_extra():
    config = setup_env.project()
    extras = config["project"]["optional-dependencies"]
    named = {Requirement(line).name for lines in extras.values() for line in lines}
    assert setup_env.without_requirements(config) <= named


def test_a_package_alone_is_installed_but_not_resolved(tree, monkeypatch):
    monkeypatch.setattr(setup_env, "run", lambda command: None)
    monkeypatch.setattr(setup_env, "project", lambda: PROJECT)
    resolved, installed = [], []

    def resolve(wanted):
        resolved.extend(wanted)
        return reported("numpy")

    monkeypatch.setattr(setup_env, "resolve_without_cuda", resolve)
    monkeypatch.setattr(setup_env, "pip", lambda *arguments: installed.extend(arguments))
    setup_env.set_up(frozenset({"subjects"}))
    assert resolved == ["setuptools", "numpy"]
    assert "--no-deps" in installed
    assert {"numpy==1.2", "titan==1"} <= set(installed)


PROJECT = {
    "build-system": {"requires": ["setuptools"]},
    "project": {
        "dependencies": ["numpy"],
        "optional-dependencies": {"cuda": [], "dev": [], "subjects": ["titan==1"]},
    },
    "tool": {"set-up": {"without-requirements": ["titan"]}},
}


def test_gpus_decide_what_torch_may_be():
    assert setup_env.gpu_vendor([]) == "none"
    assert setup_env.gpu_vendor(["sm90", "sm90"]) == "nvidia"
    with pytest.raises(SetupError, match=r"AMD GPU \(gfx950\).*make PYTHON="):
        setup_env.gpu_vendor(["gfx950"])


def test_a_python_without_venv_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "PYTHON", tmp_path / "none")
    monkeypatch.setattr(setup_env.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"has no venv module: install it \(.*python3-venv\)"):
        setup_env.make_venv()


def test_an_interpreter_that_lacks_packages_names_them():
    lacking = {
        "project": {"dependencies": ["numpy>=1", "no-such-package>=2; python_version > '3'"]}
    }
    with pytest.raises(SetupError, match=r"lacks no-such-package: install that there, or leave PY"):
        setup_env.check_as_is(lacking)


def test_pips_own_warnings_are_left_out():
    noise = "WARNING: Location 'file:///nowhere' is ignored\n"
    assert setup_env.complaints(f"{noise}ERROR: no torch\n{noise}") == "no torch"


def test_a_failing_command_is_told_in_one_line():
    with pytest.raises(SetupError, match="failed: last words"):
        setup_env.run([sys.executable, "-c", "import sys; sys.exit('last words')"])


# The set-up is made once.


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A finished set-up of a small tree, in which running pip would be a mistake."""
    inputs = tmp_path / "pyproject.toml", tmp_path / "cpu.txt"
    for path in inputs:
        path.write_text("as it was")
    python = tmp_path / "python"
    python.touch()
    for name, value in {"INPUTS": inputs, "PYTHON": python, "STAMP": tmp_path / "ready"}.items():
        monkeypatch.setattr(setup_env, name, value)
    monkeypatch.setattr(setup_env, "devices", lambda environ: ())
    stamp = {"digest": setup_env.fingerprint("none"), "extras": ["cuda"]}
    setup_env.STAMP.write_text(json.dumps(stamp))

    def pip(*arguments):
        raise SetupError("pip was called")

    monkeypatch.setattr(setup_env, "pip", pip)
    return tmp_path


@pytest.mark.parametrize("extras", [set(), {"cuda"}])
def test_nothing_is_done_twice(tree, extras):
    setup_env.set_up(frozenset(extras))


@pytest.mark.parametrize("changed", ["pyproject.toml", "cpu.txt"])
def test_a_changed_input_is_set_up_again(tree, changed):
    (tree / changed).write_text("as it is now")
    with pytest.raises(SetupError, match="pip was called"):
        setup_env.set_up(frozenset())


@pytest.mark.parametrize("lost", ["ready", "python"])
def test_a_broken_or_unfinished_venv_is_set_up_again(tree, lost, monkeypatch):
    monkeypatch.setattr(setup_env, "run", lambda command: None)
    (tree / lost).unlink()
    with pytest.raises(SetupError, match="pip was called"):
        setup_env.set_up(frozenset())


def test_another_extra_is_added(tree):
    with pytest.raises(SetupError, match="pip was called"):
        setup_env.set_up(frozenset({"dev"}))


def test_a_new_gpu_is_noticed(tree, monkeypatch):
    class Device:
        arch = "sm90"

    monkeypatch.setattr(setup_env, "devices", lambda environ: (Device,))
    with pytest.raises(SetupError, match="pip was called"):
        setup_env.set_up(frozenset())


# .buildkite/pipeline.yml

STEP_WORDS = {
    "label", "key", "device", "num_devices", "optional", "timeout_in_minutes",
    "source_file_dependencies", "commands", "retry", "mirror",
}  # fmt: skip
MIRROR_WORDS = {"label", "device", "num_devices", "timeout_in_minutes", "commands"}


CPU_STEP_WORDS = STEP_WORDS - {"num_devices", "optional", "mirror"}


@pytest.fixture(scope="module")
def calls():
    """The calls of `ci` in the pipeline, which has nothing else."""
    (step,) = yaml.safe_load((ROOT / ".buildkite" / "pipeline.yml").read_text())["steps"]
    setup, *commands = step["commands"]
    assert setup == "make setup"
    words = [shlex.split(command) for command in commands]
    return [parse(line[line.index("harness") + 1 :]) for line in words]


@pytest.fixture(scope="module")
def steps(calls):
    """The steps that they make, in the words of vLLM's generator."""
    areas = [vllm.test_area(request_of(call)) for call in calls]
    return [step for area in areas for step in area["steps"]]


def test_the_pipeline_uploads_what_buildkite_takes(calls):
    for call in calls:
        assert (call.command, call.upload, call.dialect) == ("ci", True, "buildkite")
        assert problems(buildkite.pipeline(request_of(call))) == []


@pytest.fixture
def step(steps):
    """The step on GPUs."""
    return steps[0]


def test_the_cpu_step_runs_released_layers_and_needs_no_gpu(steps):
    cpu = steps[1]
    assert len(steps) == 2
    assert set(cpu) == CPU_STEP_WORDS
    assert (cpu["device"], cpu["key"]) == ("cpu", "moe-subjects-cpu")
    assert cpu["commands"][0] == "make setup EXTRAS=subjects"
    words = shlex.split(cpu["commands"][1])
    asked = parse(words[words.index("harness") + 1 :])
    assert (asked.suite, asked.require[0]) == ("subjects", "cpu")
    assert {"experts=transformers_grouped_mm", "experts=torchtitan"} < set(asked.require)
    assert cpu["retry"] == steps[0]["retry"]
    assert cpu["source_file_dependencies"] == steps[0]["source_file_dependencies"]


def test_the_gpu_step_and_its_twin_use_the_dialects_words(step):
    assert set(step) == STEP_WORDS
    assert set(step["mirror"]) == {"amd"}
    assert set(step["mirror"]["amd"]) == MIRROR_WORDS
    assert step["label"] == "Fused MoE layers, suite ci (2 H100s)"
    assert step["optional"] is True
    assert (step["device"], step["num_devices"]) == ("h100", 2)
    assert re.fullmatch(r"[a-zA-Z0-9_\-:]{1,100}", step["key"])


def test_the_twin_asks_for_as_many_devices_as_its_queue_has(step):
    twin = step["mirror"]["amd"]
    assert twin["label"] == "Fused MoE layers, suite ci (2 MI355s)"
    assert twin["device"] == f"mi355_{twin['num_devices']}"


def test_files_that_trigger_the_step_exist(step):
    paths = step["source_file_dependencies"]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert {"moe/", "harness/", "configs/"} <= set(paths)


@pytest.mark.parametrize("twin", [False, True])
def test_the_steps_commands_are_real(step, twin):
    commands = (step["mirror"]["amd"] if twin else step)["commands"]
    setup, run = (shlex.split(command) for command in commands)
    assert setup[:2] == ["make", "setup"]
    assert make("setup", *setup[2:]).returncode == 0
    extras = frozenset(word.removeprefix("EXTRAS=") for word in setup if word.startswith("EXTRAS="))
    setup_env.requirements(setup_env.project(), extras)
    arguments = parse(run[run.index("harness") + 1 :])
    assert arguments.command == "run"
    assert (
        arguments.suite in yaml.safe_load((ROOT / "configs" / "matrix.yaml").read_text())["suites"]
    )


@pytest.mark.parametrize(
    ("twin", "chip", "members"),
    [
        (False, "cuda_sm90", {"experts=triton", "experts=flashinfer_cutlass"}),
        (True, "rocm_gfx950", {"experts=triton"}),
    ],
)
def test_a_step_without_its_gpus_or_members_ends_with_75(step, twin, chip, members):
    """And one that has them runs."""
    asked = step["mirror"]["amd"] if twin else step
    words = shlex.split(asked["commands"][-1])
    required = parse(words[words.index("harness") + 1 :]).require
    count = asked["num_devices"]
    assert set(required) == {chip, f"devices={count}", *members}
    requirements.check(required, machine.planned_for(chip, count))
    for lacking in (machine.planned_for(chip, count - 1), machine.planned_for("cpu")):
        with pytest.raises(InfrastructureError, match=f"  devices={count}: there are "):
            requirements.check(required, lacking)


def test_only_what_the_code_did_not_cause_is_tried_again(step):
    rules = {rule["exit_status"]: rule["limit"] for rule in step["retry"]["automatic"]}
    assert rules == {int(ExitCode.INFRASTRUCTURE): 1, -1: 2, 255: 2}


# What is published.


def test_the_licence_is_the_one_that_is_named():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert config["license"] == "Apache-2.0"
    text = (ROOT / config["license-files"][0]).read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text


@pytest.mark.parametrize(
    "name", ["Makefile", "pyproject.toml", "constraints/cpu.txt", "scripts/setup_env.py", ".ci/run"]
)
def test_no_package_index_is_named(name):
    text = (ROOT / name).read_text()
    assert re.findall(r"https?://|index-url\b|find-links", text) == []
