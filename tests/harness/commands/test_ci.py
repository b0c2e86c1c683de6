"""`ci`: what is printed or uploaded, and each wrong option."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from harness import cli
from harness.commands.ci import AGENT
from harness.plan.pipelines.checks import problems
from tests.harness.commands.fake_agent import FakeAgent

CI = ["ci", "--suite", "smoke", "--devices", "h100:2,mi355:2"]


def test_each_dialect_is_printed_as_data(engine, capsys):
    assert cli.main([*CI, "--shards", "3"]) == 0
    pipeline = yaml.safe_load(capsys.readouterr().out)
    assert problems(pipeline) == []
    assert [step.get("parallelism") for step in pipeline["steps"]] == [3, None, 3, None]
    assert cli.main([*CI, "--dialect", "vllm"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["steps"][0]["mirror"]["amd"]
    assert cli.main([*CI, "--dialect", "github"]) == 0
    assert len(json.loads(capsys.readouterr().out)["include"]) == 2


def test_the_agent_receives_what_is_printed_in_parts_if_it_is_large(
    engine, capsys, tmp_path, monkeypatch
):
    agent = FakeAgent(tmp_path / "agent", monkeypatch)
    cli.main(CI)
    printed = capsys.readouterr().out
    assert cli.main([*CI, "--upload"]) == 0
    assert agent.calls() == [(["pipeline", "upload"], printed)]
    assert cli.main([*CI, "--upload", "--shards", "300"]) == 0
    assert len(agent.calls()) == 3
    (agent.folder / "fails").touch()
    assert cli.main([*CI, "--upload"]) == 75
    assert "the pipeline was not uploaded" in capsys.readouterr().err


def test_without_an_agent_nothing_can_be_uploaded(engine, capsys, monkeypatch):
    if shutil.which(AGENT):
        pytest.skip("there is one")
    assert cli.main([*CI, "--upload"]) == 75
    assert "buildkite-agent is not on PATH" in capsys.readouterr().err


def test_extras_are_those_of_the_project_here_or_of_the_harness_itself(engine, capsys):
    assert cli.main([*CI, "--extras", "mine"]) == 3  # no project lies in this folder
    assert cli.main([*CI, "--extras", "cuda,subjects"]) == 0
    assert "make setup EXTRAS=cuda,subjects" in capsys.readouterr().out
    Path("pyproject.toml").write_text("[project.optional-dependencies]\nmine = []\n")
    assert cli.main([*CI, "--extras", "mine"]) == 0
    assert cli.main([*CI, "--extras", "cuda"]) == 3


def test_every_wrong_option_is_one_line_and_prints_no_pipeline(engine, capsys):
    extras = "[project]\nname = 'x'\n[project.optional-dependencies]\ncuda = []\nray = []\n"
    Path("pyproject.toml").write_text(extras)
    for options, message in (
        (["--suite", "smok"], "no suite is called 'smok', did you mean 'smoke'?"),
        (["--devices", "h100:0"], "a machine has 1 to 8 GPUs"),
        (["--optional", "mi300"], "--optional names mi300, and --devices does not"),
        (["--soft-fail", "x"], "--soft-fail: no device is called 'x'"),
        (["--require", "mi300/experts=triton"], "--require names mi300"),
        (["--require", "cuda_sm9"], "no platform, feature or key is called 'cuda_sm9', did you"),
        (["--require", "h100/devices=x"], "--require devices=x: give a number of at least 1"),
        (["--queue", "h100"], "--queue takes DEVICE=NAME"),
        (["--dialect", "vllm", "--upload"], "--upload goes with --dialect buildkite"),
        (["--extras", "cuda,foo"], "--extras: no extra is called 'foo' (known: cuda, ray)"),
        (["--shards", "300"], "602 jobs need 2 uploads: --upload makes them"),
        (["--shards", "500"], "501 jobs are more than an upload may have"),
        (["--dialect", "github", "--shards", "129"], "258 jobs are more than a matrix may have"),
    ):
        assert cli.main([*CI, *options]) == 3, message
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.out == ""
