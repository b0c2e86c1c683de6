"""A lost output never looks like a pass: real processes, whose readers go away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands.streams import Stream
from harness.record.events import CaseEnded
from harness.record.run_folder import RunFolder
from tests.harness.console import LONG

ROOT = Path(__file__).parents[3]
RUN = [sys.executable, "-m", "tests.harness.commands.pipe_run"]
LIST = f"{sys.executable} -m harness list {LONG}"


def environment():
    """Buffered, as for most users: then the interpreter's last flush may fail, too."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**kept, "PYTHONPATH": str(ROOT)}


def shell(command, cwd=ROOT):
    """What a command line in bash came to, with its own code if any part of a pipe has one."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def cases_recorded(folder):
    return len([e for e in RunFolder.open(folder).events() if isinstance(e, CaseEnded)])


@pytest.mark.parametrize(("verdict", "code"), [("passed", 0), ("failed", 1), ("infra", 75)])
def test_a_run_whose_reader_goes_away_runs_to_its_end(tmp_path, verdict, code):
    child = subprocess.Popen(
        [*RUN, "here", verdict],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "[1/8]" not in child.stdout.readline():
        pass
    child.stdout.close()
    child.stdin.write("\n")
    child.stdin.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert (child.wait(timeout=60), errors) == (code, "")
    assert cases_recorded(tmp_path / "here") == 8


@pytest.mark.parametrize(("verdict", "code"), [("passed", 0), ("failed", 1)])
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>&-", "1</dev/null"])
def test_a_run_whose_output_is_closed_from_the_start_runs_to_its_end(
    tmp_path, verdict, code, closed
):
    done = shell(f"{' '.join(RUN)} here {verdict} {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (code, "")
    assert cases_recorded(tmp_path / "here") == 8
    lines = (tmp_path / "here/events.jsonl").read_text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []


def test_a_tee_that_dies_is_no_pass_of_a_failed_run(tmp_path):
    done = shell(f"{' '.join(RUN)} here failed 2>&1 | tee no/such/file >/dev/full", tmp_path)
    assert done.returncode == 1
    assert cases_recorded(tmp_path / "here") == 8


@pytest.mark.parametrize("closed", ["| head -n 1", "2>&1 | head -n 1", ">&-", "2>&- >&-"])
def test_a_list_that_nobody_reads_is_no_error(closed):
    done = shell(f"{LIST} {closed}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["| true", ">&-", "2>&1 | true"])
def test_a_usage_error_that_nobody_reads_is_still_one(closed):
    assert shell(f"{LIST} --require gpus {closed}").returncode == 3


@pytest.mark.parametrize("command", ["list", "schema", "--help", "list --help"])
def test_an_output_on_a_full_disk_is_not_a_pass(command):
    done = shell(f"{sys.executable} -m harness {command} >/dev/full")
    assert done.returncode == 75
    text = "standard output could not be written: [Errno 28] No space left on device"
    assert done.stderr == f"{text}; exit code 75 instead of 0\n"


@pytest.mark.parametrize(("verdict", "code"), [("passed", 75), ("not_run", 75), ("failed", 1)])
def test_a_run_whose_output_is_on_a_full_disk_is_recorded_to_its_end(tmp_path, verdict, code):
    done = shell(f"{' '.join(RUN)} here {verdict} >/dev/full", tmp_path)
    assert done.returncode == code
    assert ("standard output could not be written" in done.stderr) == (code == 75)
    assert cases_recorded(tmp_path / "here") == 8


def test_errors_on_a_full_disk_leave_the_code_as_it_is():
    assert shell(f"{LIST} --require gpus 2>/dev/full").returncode == 3
    assert shell(f"{LIST} 2>/dev/full").returncode == 0


class Broken:
    """A stream of somebody's own, without a descriptor."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def write(self, text):
        raise OSError(5, "Input/output error")

    def flush(self):
        raise OSError(5, "Input/output error")

    def fileno(self):
        raise OSError("no descriptor")


def test_a_terminal_that_hangs_up_is_a_closed_output():
    stream = Stream(Broken())
    assert stream.write("text") == 4
    stream.writelines(["a", "b"])
    stream.flush()
    assert stream.error.errno == 5
    assert stream.is_stored
    assert stream.encoding == "utf-8"
