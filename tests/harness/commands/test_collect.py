"""`collect`: shards that jobs uploaded become one report, and an annotation of the build."""

import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from harness import cli
from harness.record.result import Verdict
from tests.harness.commands.fake_agent import FakeAgent
from tests.harness.fake_engine import BASE

COLLECT = ["collect", "runs/moe", "--context", "moe"]


@pytest.fixture
def agent(engine, tmp_path, monkeypatch):
    """An agent that brings two shards, as two jobs uploaded them."""
    agent = FakeAgent(tmp_path / "agent", monkeypatch)
    engine.verdicts[f"{BASE}-tp:2"] = Verdict.FAILED
    for number in (0, 1):
        monkeypatch.setenv("BUILDKITE_PARALLEL_JOB", str(number))
        monkeypatch.setenv("BUILDKITE_PARALLEL_JOB_COUNT", "2")
        out = str(agent.folder / f"artifacts/runs/moe/{number}")
        cli.main(["run", "--suite", "smoke", "--shard", "auto", "--out", out])
    return agent


def test_shards_are_fetched_merged_reported_and_shown(agent):
    assert cli.main(COLLECT) == 1
    (download, _), (annotate, text) = agent.calls()
    assert download == ["artifact", "download", "runs/moe/**/*", "."]
    assert annotate == ["annotate", "--context", "moe", "--style", "error"]
    assert text == Path("runs/moe/report.md").read_text()
    assert f"failed {BASE}-tp:2" in text
    assert ET.parse("runs/moe/junit.xml").getroot()[0].get("tests") == "9"
    assert f'"id":"{BASE}-tp:2"' in Path("runs/moe/report.html").read_text()
    assert cli.main(COLLECT) == 1  # again, as a retried job does


def test_a_lost_shard_is_annotated_and_incomplete(agent, capsys):
    shutil.rmtree(agent.folder / "artifacts/runs/moe/1")
    assert cli.main(COLLECT) == 2
    arguments, text = agent.calls()[-1]
    assert arguments[-1] == "error"
    assert "shard 2 of 2 is missing" in text
    assert not Path("runs/moe/merged").exists()


def test_no_run_at_all_is_no_pass(agent):
    shutil.rmtree(agent.folder / "artifacts")
    assert cli.main(COLLECT) == 4
    assert "no job has ended with a record" in agent.calls()[-1][1]


def test_a_single_job_needs_no_merge_and_the_agents_faults_fail_nothing(agent, engine, capsys):
    (agent.folder / "fails").touch()
    engine.verdicts.clear()
    cli.main(["run", "--suite", "smoke", "--out", "runs/moe/0"])
    assert cli.main(COLLECT) == 0
    assert "warning: " in capsys.readouterr().err
    assert agent.calls()[-1][0][-1] == "success"


def test_a_runs_own_folder_or_none_is_one_line_and_nothing_is_written(engine, capsys, monkeypatch):
    cli.main(["run", "--suite", "smoke", "--out", "runs/moe"])
    monkeypatch.setenv("PATH", "")
    before = sorted(Path("runs/moe").rglob("*"))
    Path("file").touch()
    for folder, message in (
        ("runs/moe", "'runs/moe' is a run's own folder: give the folder that the runs' folders"),
        ("nowhere", "there is no folder 'nowhere', and no buildkite-agent on PATH that could"),
        ("file", "'file' is not a folder: give the one"),
    ):
        capsys.readouterr()
        assert cli.main(["collect", folder, "--context", "moe"]) == 3
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(Path("runs/moe").rglob("*")) == before
    assert not Path("nowhere").exists()
