"""Runs with known failures and in shards, from the command line to the folder."""

import datetime
from pathlib import Path

from harness import cli
from harness.record.ledger import EXPIRED, QUARANTINED, UNEXPECTED
from harness.record.result import Verdict
from harness.record.run_folder import RunFolder, last_results
from tests.harness.console import last_line, the_folder
from tests.harness.fake_engine import BASE

BAD = f"{BASE}-tp:2-seed:1"
ENTRY = """\
version: 1
entries:
  - {{case: "{case}", issue: "https://host/1", expires: {expires}, {rest}}}
"""


def known(rest="verdicts: [failed]", *, case=BAD, days=10):
    expires = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=days)
    text = ENTRY.format(case=case, expires=expires, rest=rest)
    Path("configs/known_failures.yaml").write_text(text)


def results():
    return last_results(the_folder().events())


def test_a_known_failure_is_counted_apart_and_does_not_fail_the_run(engine, capsys):
    known()
    engine.verdicts[BAD] = Verdict.FAILED
    assert cli.main(["run", "--suite", "smoke", "-x"]) == 0
    out = capsys.readouterr().out
    assert "1 known failure(s), as expected" in out
    assert " passed=7 failed=0 " in out.splitlines()[-1]
    assert " known=1 " in out.splitlines()[-1]
    assert "https://host/1" in results()[BAD].messages[0]
    ((_, options),) = engine.calls
    assert options.forgiven == {BAD}


def test_an_unexpected_pass_fails_the_run_and_ends_it_under_x(engine, capsys):
    known()
    assert cli.main(["run", "--suite", "smoke"]) == 1
    assert "known failure(s) passed: remove their entries" in capsys.readouterr().out
    assert results()[BAD].reason == UNEXPECTED


def test_an_expired_entry_fails_the_run(engine, capsys):
    known(days=-1)
    engine.verdicts[BAD] = Verdict.FAILED
    assert cli.main(["run", "--suite", "smoke"]) == 1
    assert results()[BAD].verdict is Verdict.FAILED
    assert "expired on" in capsys.readouterr().out


def test_quarantine_is_never_launched_and_is_counted_as_such(engine, capsys):
    known("quarantine: true", case="*-tp:2*")
    assert cli.main(["run", "--suite", "smoke"]) == 0
    out = capsys.readouterr().out
    assert "5 refused (4 quarantined, 1 platform_lacks_feature)" in out
    assert "4 case(s) in quarantine were not launched" in out
    ((plan, _),) = engine.calls
    assert len(plan.cases) == 4
    assert {p.code for p in the_folder().info.refused} == {QUARANTINED, "platform_lacks_feature"}
    assert cli.main(["list", "--suite", "smoke"]) == 0
    assert "quarantined: e.g." in capsys.readouterr().out


def test_an_expired_quarantine_fails_without_a_launch(engine, capsys):
    known("quarantine: true", days=-1)
    assert cli.main(["run", "--suite", "smoke"]) == 1
    ((plan, _),) = engine.calls
    assert BAD not in {case.id for case in plan.cases}
    assert results()[BAD].reason == EXPIRED
    assert "1 case(s) fail for an entry that has expired" in capsys.readouterr().out


def test_a_resumed_run_keeps_its_quarantine(engine, capsys):
    known("quarantine: true")
    engine.verdicts[BASE] = Verdict.INFRA
    assert cli.main(["run", "--suite", "smoke", "--out", "first"]) == 75
    Path("configs/known_failures.yaml").unlink()
    engine.verdicts.clear()
    assert cli.main(["run", "--resume", "first"]) == 0
    assert [case.id for case in engine.calls[1][0].cases] == [BASE]


def test_a_broken_file_is_a_usage_error_and_runs_nothing(engine, capsys):
    Path("configs/known_failures.yaml").write_text("version: 1\nentries: 3\n")
    assert cli.main(["run", "--suite", "smoke"]) == 3
    assert "known_failures.yaml:2:10: entries: must be a list" in capsys.readouterr().err
    assert not Path("runs").exists()
    assert cli.main(["run", "--suite", "smoke", "--known-failures", "absent.yaml"]) == 3


def test_shards_run_each_case_once_and_know_what_they_are_of(engine, capsys):
    for number in (1, 2, 3):
        out = ["--out", f"shard{number}"]
        assert cli.main(["run", "--suite", "smoke", "--shard", f"{number}/3", *out]) == 0
    infos = [RunFolder.open(Path(f"shard{number}")).info for number in (1, 2, 3)]
    cases = [case for info in infos for case in info.cases]
    assert len(cases) == len(set(cases)) == 8
    assert sum(len(info.refused) for info in infos) == 1
    assert [info.shard.index for info in infos] == [1, 2, 3]
    assert len({info.shard.suite_hash for info in infos}) == 1


def test_a_shard_can_be_listed_and_resumed_as_what_it_is(engine, capsys):
    engine.verdicts[BASE] = Verdict.INFRA
    ids = []
    for number in (1, 2):
        cli.main(["list", "--suite", "smoke", "--shard", f"{number}/2"])
        ids.append(capsys.readouterr().out.splitlines())
    number = 1 if BASE in ids[0] else 2
    assert cli.main(["run", "--suite", "smoke", "--shard", f"{number}/2", "--out", "one"]) == 75
    engine.verdicts.clear()
    for more in (["--suite", "smoke"], ["--shard", "1/2"]):
        assert cli.main(["run", "--resume", "one", *more]) == 3
        assert "leave out" in capsys.readouterr().err
    assert cli.main(["run", "--resume", "one"]) == 0
    assert last_line(capsys).startswith("cases=")
    assert RunFolder.open(Path("one")).info.shard.index == number


def test_a_shard_that_cannot_be(engine, capsys, monkeypatch):
    for name in ("BUILDKITE_PARALLEL_JOB", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for text, message in {
        "3/2": "--shard must be i/n with i from 1 to n, or auto, not '3/2'",
        "0/2": "not '0/2'",
        "9/9": "only 8 case(s) run here; give at most 8 shard(s)",
        "auto": "neither is set; give i/n",
    }.items():
        assert cli.main(["run", "--suite", "smoke", "--shard", text]) == 3
        assert message in capsys.readouterr().err
    assert cli.main(["run", "--suite", "nothing", "--shard", "1/2"]) == 4
    assert cli.main(["run", "--suite", "smoke", "--shard", "1/2", "--durations-from", "x"]) == 3
    assert not Path("runs").exists()
