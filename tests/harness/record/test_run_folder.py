"""A run's folder survives crashes, cuts and full disks, and is never overwritten."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys

import pytest

from harness.errors import UsageError
from harness.record import run_folder
from harness.record.events import CaseEnded, CaseStarted, RunStarted
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder, decided, last_results, newest
from tests.harness.record.infos import run_info


def ended(case, verdict=Verdict.PASSED):
    return CaseEnded(time=1.0, gang=1, result=CaseResult(case_id=case, verdict=verdict))


@pytest.fixture
def folder(tmp_path):
    with RunFolder.create(tmp_path / "run", run_info()) as folder:
        yield folder


def test_what_is_appended_is_read_back_in_order(folder):
    events = [RunStarted(time=0.0, cases=["a"]), ended("a"), ended("b", Verdict.FAILED)]
    for event in events:
        folder.append(event)
    assert folder.events() == events
    assert RunFolder.open(folder.path).events() == events
    assert RunFolder.open(folder.path).info == run_info()
    assert folder.log_dir.is_dir()


def test_a_folder_is_never_overwritten(folder):
    with pytest.raises(
        UsageError, match=r"not empty; choose another with --out, or resume .* --resume"
    ):
        RunFolder.create(folder.path, run_info())


def test_an_empty_folder_may_be_given(tmp_path):
    RunFolder.create(tmp_path, run_info()).close()
    assert (tmp_path / "run.json").is_file()


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make the run folder"):
        RunFolder.create(tmp_path / "file/run", run_info())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "is not a run folder"),
        ("{", "is not a run folder"),
        ('{"format": 9}', "has format 9, not 3 or 4"),
        ('{"format": 2}', "has format 2, not 3 or 4; read it with the version of the harness that"),
    ],
)
def test_what_is_no_run_folder_says_so(tmp_path, text, complaint):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=complaint):
        RunFolder.open(tmp_path)


def test_a_folder_of_the_format_before_is_read_and_resumed_in_the_present_one(folder):
    folder.append(ended("a"))
    folder.close()
    info, events = (folder.path / name for name in ("run.json", "events.jsonl"))
    info.write_text(info.read_text().replace('"format": 4', '"format": 3'))
    events.write_text(events.read_text().replace(', "earlier": []', ""))
    assert "earlier" not in events.read_text()
    RunFolder.open(folder.path)
    assert '"format": 3' in info.read_text()  # a reader changes nothing
    with RunFolder.open(folder.path, write=True) as again:
        again.append(ended("b"))
    assert '"format": 4' in info.read_text()
    results = last_results(RunFolder.open(folder.path).events())
    assert [result.earlier for result in results.values()] == [(), ()]


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_line_cut_off_by_a_crash_costs_only_itself(folder, cut):
    for case in "abc":
        folder.append(ended(case))
    folder.close()
    path = folder.path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with RunFolder.open(folder.path, write=True) as again:
        kept = "abc" if cut == 1 else "ab"  # without its newline a line is still whole
        assert list(last_results(again.events())) == list(kept)
        again.append(ended("d"))
        assert list(last_results(again.events())) == [*kept, "d"]


def test_two_writers_are_refused(folder):
    with pytest.raises(UsageError, match="another run is writing"):
        RunFolder.open(folder.path, write=True)
    folder.close()
    RunFolder.open(folder.path, write=True).close()


def test_a_reader_may_not_write(folder):
    with pytest.raises(ValueError, match="opened for reading only"):
        RunFolder.open(folder.path).append(ended("a"))


@pytest.fixture
def no_room_after():
    """Files may grow to this size and no further, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_warning_said_once(folder, no_room_after, capsys):
    folder.append(ended("a"))
    path = folder.path / "events.jsonl"
    no_room_after(path.stat().st_size + 20)  # part of a line fits
    folder.append(ended("b"))
    folder.append(ended("c", Verdict.FAILED))
    no_room_after(10**6)
    folder.append(ended("d"))
    said = capsys.readouterr().err
    assert said.count("warning: cannot record in") == 1
    assert re.search(r"only 20 of \d+ bytes were written; the run continues", said)
    assert list(last_results(folder.events())) == ["a", "d"]
    assert {c: r.verdict for c, r in folder.results.items()} == {
        "a": "passed",
        "b": "passed",
        "c": "failed",
        "d": "passed",
    }


def test_a_folder_that_is_gone_is_a_warning(folder, capsys):
    shutil.rmtree(folder.path)
    folder.append(ended("a"))
    folder.write_summary({"cases": 1})
    assert "warning: cannot record in" in capsys.readouterr().err
    assert folder.events() == []


def test_verdicts_are_synced_to_the_disk(folder, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(file) or real(file))
    folder.append(CaseStarted(time=0.0, case_id="a", gang=1))
    assert not synced
    folder.append(ended("a"))
    assert len(synced) == 1


def test_a_killed_writer_leaves_all_it_wrote(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from harness.record.events import CaseStarted\n"
        "from harness.record.run_folder import RunFolder\n"
        "from tests.harness.record.infos import run_info\n"
        "folder = RunFolder.create(Path(sys.argv[1]), run_info())\n"
        "for i in range(50): folder.append(CaseStarted(time=0.0, case_id=str(i), gang=1))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    with RunFolder.open(path, write=True) as folder:
        assert [event.case_id for event in folder.events()] == [str(i) for i in range(50)]


def test_the_last_word_on_a_case_counts():
    events = [ended("a", Verdict.INFRA), ended("b"), ended("a", Verdict.FAILED)]
    assert {c: r.verdict for c, r in last_results(events).items()} == {"a": "failed", "b": "passed"}


def test_what_says_nothing_of_the_code_runs_again():
    results = last_results(ended(str(verdict), verdict) for verdict in Verdict)
    assert set(results) - decided(results) == {"infra", "not_run"}


def test_the_newest_folder_is_the_one_that_began_last(tmp_path):
    with pytest.raises(UsageError, match="no run folder under"):
        newest(tmp_path)
    for age, name in ((5, "z"), (1, "a"), (9, "m")):
        path = tmp_path / name
        path.mkdir()
        (path / "run.json").write_text(json.dumps({}))
        os.utime(path / "run.json", (1000 - age, 1000 - age))
    (tmp_path / "newer").mkdir()
    assert newest(tmp_path) == tmp_path / "a"


def test_log_names_are_short_enough_and_differ():
    long = [f"{'x' * 300}{i}" for i in (1, 2)]
    names = [run_folder.log_name(name, 1) for name in long]
    assert len(set(names)) == 2
    assert max(map(len, names)) < 200
    assert run_folder.log_name("m:1", 1) == "m:1.log"
    assert run_folder.log_name("m:1", 2) == "m:1.2.log"
