"""Merged shards: one run's folder if they are the whole suite, and otherwise nothing."""

import json
import shutil
from pathlib import Path

import pytest

from harness import cli
from harness.record.events import RunEnded
from harness.record.result import Verdict
from harness.record.run_folder import RunFolder
from tests.harness.console import summary
from tests.harness.fake_engine import BASE


@pytest.fixture
def shards(engine):
    engine.verdicts[f"{BASE}-tp:2"] = Verdict.FAILED
    for number in (1, 2, 3):
        cli.main(["run", "--suite", "smoke", "--shard", f"{number}/3", "--out", f"s{number}"])
    return ["s1", "s2", "s3"]


def edit(folder, change):
    path = Path(folder) / "run.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_all_shards_are_one_run(shards, capsys):
    (Path("s2/logs") / "case.log").write_text("x")
    assert cli.main(["merge", "s3", "s1", "s2", "--out", "all"]) == 1
    assert summary(9, passed=7, failed=1, skipped=1).match(capsys.readouterr().out.splitlines()[-1])
    whole = RunFolder.open(Path("all"))
    assert whole.info.shard is None
    assert len(whole.info.cases) == 8
    assert isinstance(whole.events()[-1], RunEnded)
    gangs = [event.gang for event in whole.events() if type(event).__name__ == "GangStarted"]
    assert len(gangs) == len(set(gangs))
    assert Path("all/logs/case.log").exists()
    assert cli.main(["report", "all"]) == 0


def test_a_missing_shard_is_incomplete_and_writes_nothing(shards, capsys):
    assert cli.main(["merge", "s1", "s3", "--out", "all"]) == 2
    assert "shard 2 of 3 is missing: nothing was merged" in capsys.readouterr().err
    assert not Path("all").exists()


def test_an_unfinished_shard_is_named(shards, engine, capsys):
    engine.verdicts[BASE] = Verdict.INFRA
    for number in (1, 2, 3):
        shutil.rmtree(f"s{number}")
        cli.main(["run", "--suite", "smoke", "--shard", f"{number}/3", "--out", f"s{number}"])
    engine.verdicts.clear()
    assert cli.main(["merge", *shards, "--out", "all"]) == 1
    assert "is unfinished: resume it" in capsys.readouterr().out


def test_what_is_not_one_suite_is_refused(shards, engine, capsys):
    def changed(change):
        shutil.rmtree("other", ignore_errors=True)
        shutil.copytree("s2", "other")
        edit("other", change)
        return ["s1", "other", "s3"]

    cli.main(["run", "--suite", "smoke", "--out", "plain"])
    capsys.readouterr()
    point = {"case": f"{BASE}-seed:9", "code": "x", "text": "y"}
    for made, message in (
        (["s1", "s2", "s2", "s3"], "shard 2/3 is given twice"),
        (["s1", "plain"], "'plain' is not a shard"),
        (lambda: changed(lambda d: d.update(git="abc")), "the revision is"),
        (lambda: changed(lambda d: d.update(suite="ci")), "the suite is smoke and ci"),
        (lambda: changed(lambda d: d["shard"].update(suite_hash="0")), "the hash of the suite is"),
        (lambda: changed(lambda d: d["shard"].update(split_hash="0")), "give every shard the same"),
        (lambda: changed(lambda d: d["shard"].update(count=4)), "the number of shards is 3 and 4"),
        (lambda: changed(lambda d: d["cases"].pop()), "together the shards are not the suite"),
        (
            lambda: changed(lambda d: d["refused"].append(point)),
            "together the shards are not the suite",
        ),
        (lambda: changed(lambda d: d["platform"].update(name="x")), "the platform is cpu and x"),
        (["absent"], "'absent' is not a run folder"),
    ):
        folders = made() if callable(made) else made
        assert cli.main(["merge", *folders, "--out", "all"]) == 3, message
        assert message in capsys.readouterr().err
        assert not Path("all").exists()


def test_the_events_of_each_shard_are_read_once(shards, monkeypatch):
    paths = []
    real = RunFolder.events

    def events(folder):
        paths.append(str(folder.path))
        return real(folder)

    monkeypatch.setattr(RunFolder, "events", events)
    cli.main(["merge", *shards, "--out", "all"])
    assert [path for path in paths if path in shards] == shards
