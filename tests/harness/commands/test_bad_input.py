"""Wrong command lines: each ends with one line, the right exit code, and nothing written.

Files and folders are made once; a command that writes among them is a failure of that command.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import harness.engine.scheduler
from harness import cli
from harness.plan import machine
from tests.harness.fake_engine import BASE, TEXT, FakeEngine

CASE = f"run --case {BASE}"
CI = "ci --suite smoke --devices"
BINARY = "not text in UTF-8: byte 128 is 0x80"
# Command line, and what its line says. Exit code 3 unless CODES has another.
LINES = {
    "nope": "invalid choice: 'nope'",
    "run": "choose one of --suite, --case, --last-failed, --model, --trace, --resume (none given)",
    "run --suite nope": "no suite is called 'nope' (known: smoke, nothing)",
    "run --suite nothing": "nothing would run here; every point is refused:",
    "run --suite smoke --config nofile": "'nofile': No such file or directory",
    "run --suite smoke --config afolder": "'afolder': Is a directory",
    "run --suite smoke --config binary": BINARY,
    "run --suite smoke --config empty": "empty:1:1: the file is empty",
    "run --suite smoke --config list.yaml": "list.yaml:1:1: must be a mapping",
    "run --suite smoke --config zero.yaml": r"zero.yaml:2:3: not valid YAML: character '\x00': ",
    "run --suite smoke --config open.yaml": "open.yaml:2:1: not valid YAML: while parsing a flow",
    "run --suite smoke --config deep.yaml": "exceeded maximum nesting depth",
    "run --case nonsense": "case id 'nonsense': token 'nonsense': no field is called 'nonsense'",
    f"{CASE}-q:1": "token 'q:1': no field is called 'q'",
    f"{CASE} --suite smoke": "choose one of --suite, --case",
    f"{CASE} --out good": "the folder 'good' is not empty; choose another with --out",
    f"{CASE} --out text": "cannot make the run folder 'text': text is not a folder",
    f"{CASE} --out text/x": "cannot make the run folder 'text/x': text is not a folder",
    f"{CASE} --shard 9/8": "--shard must be i/n with i from 1 to n, or auto, not '9/8'",
    f"{CASE} --durations-from nodir": "'nodir' is not a run folder: run.json: No such file",
    f"{CASE} --durations-from future": "has format 99, not",
    f"{CASE} --durations-from closed": "cannot read the events of 'closed': Is a directory",
    f"{CASE} --time-budget soon": "--time-budget 'soon': give a time such as 90s, 5m or 2h",
    f"{CASE} --known-failures nofile": "the file of known failures 'nofile': No such file",
    f"{CASE} --known-failures binary": BINARY,
    f"{CASE} --known-failures list.yaml": "list.yaml:1:1: must be a mapping",
    f"{CASE} --require nope": "--require nope: no platform, feature or key is called 'nope'",
    f"{CASE} --experts nope": "no experts backend is called 'nope'",
    f"{CASE} --experts no.such:Class": "cannot load experts 'no.such:Class': No module named 'no'",
    f"{CASE} --experts os:path": "it has no attribute `row`",
    f"{CASE} --layer nope": "no layer is called 'nope'",
    f"{CASE} -k (": "a word, `not` or `(` is missing",
    f"{CASE} --exclude x": "needs a --reason TEXT of its own",
    f"{CASE} --hosts node1 --token-file text": "--hosts: give an IPv4 address and a port",
    f"{CASE} --hosts 127.0.0.1:1 --token-file nofile": "--token-file 'nofile': No such file",
    f"{CASE} --hosts 127.0.0.1:1 --token-file afolder": "--token-file 'afolder': Is a directory",
    "run --model nope": "no model is called 'nope'",
    "run --trace text": "--trace 'text' is not a data set of FlashInfer Trace",
    "run --resume nodir": "'nodir' is not a run folder: run.json: No such file or directory",
    "run --resume text": "'text' is not a run folder: run.json: Not a directory",
    "run --resume afolder": "'afolder' is not a run folder: run.json: No such file",
    "run --resume future": "the run folder 'future' has format 99, not",
    "run --resume unknown": "the run folder 'unknown': case id 'nonsense'",
    "run --last-failed": "no run folder under 'runs'; start with run --suite NAME",
    f"{CASE} --durations-from strange": "the run folder 'strange': case id 'nonsense'",
    f"{CASE} --slots 0": "give a whole number of at least 1, not '0'",
    f"{CASE} --slots 99999999999": "give a whole number of at most 2,147,483,647, not",
    f"{CASE} --retries 1e9": "give a whole number of at least 0, not '1e9'",
    f"{CASE} --time-limit nan": "give a number of seconds above 0, not 'nan'",
    f"{CASE} --token-file text": "--token-file goes with --hosts LIST",
    f"{CASE} --engine ray --hosts 127.0.0.1:1": "--engine ray finds hosts by itself",
    f"{CASE} --tokens 4": "give --model NAME with --tokens",
    "run --suite=": "--suite is given an empty value; leave it out, or set the variable",
    "run --suite smoke --exclude=x --reason=": "--reason is given an empty value",
    "run --suite smoke --only-changed nope": "--only-changed 'nope': not a git repository",
    "run --suite smoke -k zzz": "-k 'zzz' matches none of 9 case id(s)",
    "run --resume closed": "cannot write to the run folder 'closed': Is a directory",
    "run --resume good --suite smoke": "is of cases without a suite, not suite 'smoke'",
    "list --suite nope": "no suite is called 'nope'",
    "list --platform nope": "no platform is called 'nope'",
    "plan --config binary": BINARY,
    "coverage --suite nope": "no suite is called 'nope'",
    "coverage --kernels nodir": "'nodir' is not a run folder",
    "explain --case nonsense": "case id 'nonsense'",
    "compile --platform cpu": "--platform cpu: Triton compiles nothing for it",
    "compile --cache text": "--cache text: cannot make this folder: text is not a folder",
    "report nodir": "'nodir' is not a run folder",
    "report bytes": f"'bytes' is not a run folder: run.json: {BINARY}",
    "report void": "'void' is not a run folder: run.json: Expecting value",
    "report list": "'list/run.json' must hold a JSON object, not a list",
    "report future": "has format 99, not",
    "report closed": "cannot read the events of 'closed': Is a directory",
    "report unknown": "the run folder 'unknown': case id 'nonsense'",
    "report unknown --html": "or start a new run",
    "report intcases": "'intcases/run.json': cases must be a list of case ids, not '5'",
    "report good --junit nodir/x": "cannot write 'nodir/x': No such file or directory",
    "report good --markdown nodir/x": "cannot write 'nodir/x': No such file or directory",
    "report good --html nodir/x": "cannot write 'nodir/x': No such file or directory",
    "report good --trace nodir/x": "cannot write 'nodir/x': No such file or directory",
    "report good --junit afolder": "cannot write 'afolder': Is a directory",
    "report good --markdown afolder": "cannot write 'afolder': Is a directory",
    "report good --html afolder": "cannot write 'afolder': Is a directory",
    "report good --trace afolder": "cannot write 'afolder': Is a directory",
    "report good --evaluations x": "'good' ran no recorded workloads",
    "diff good future": "has format 99, not",
    "diff good good --markdown afolder": "cannot write 'afolder': Is a directory",
    "flakes": "name run folders, or an earlier store of results with --db FILE",
    "flakes good --db nodir/x": "cannot use 'nodir/x' as a store of results: unable to open",
    "flakes good --db text": "cannot use 'text' as a store of results: file is not a database",
    "flakes good --db afolder": "cannot use 'afolder' as a store of results: unable to open",
    "merge nodir": "'nodir' is not a run folder",
    "merge good --out text": "'good' is not a shard",
    f"{CI} cpu --extras nope": "--extras: no extra is called 'nope' (known: cuda, dev",
    f"{CI} h100:x": "--devices takes a list such as h100:2,mi355:2,cpu, not 'h100:x'",
    f"{CI} h100:2,h100:2": "--devices names h100-2 twice; more jobs of one kind: --shards N",
    f"{CI} h100:2 --shards 999": "1000 jobs are more than an upload may have (450): fewer",
    f"{CI} h100:2 --queue mi355=q": "--queue names mi355, and --devices does not",
    f"{CI} h100:2 --queue nope=q": "--queue takes DEVICE=NAME, such as h100=gpu-pool, not",
    f"{CI} h100:2 --dialect github --upload": "--upload goes with --dialect buildkite",
    f"{CI} nope:2": "--devices: no device is called 'nope'",
    f"{CI} h100:0": "--devices: a machine has 1 to 8 GPUs, not 'h100:0'",
    f"{CI} cpu --optional b200": "--optional names b200, and --devices does not",
    "collect text --context x": "'text' is not a folder",
    "collect good --context x": "'good' is a run's own folder",
    "host --listen 0.0.0.0:1 --token-file text": "would listen on every network: give one address",
    "host --listen 127.0.0.1:0 --token-file nofile": "--token-file 'nofile': No such file",
    "fuzz --budget 0s": "--budget '0s': give a time such as 90s, 5m or 2h",
    "fuzz --set m:x": "--set: token 'm:x': 'x' is not a whole number",
    "fuzz --out text": "cannot make the run folder 'text': text is not a folder",
    "fuzz --out text/x": "cannot make the run folder 'text/x': text is not a folder",
    "fuzz --cases 0": "give a whole number of at least 1, not '0'",
    "fuzz --out good": "the folder 'good' is not empty; choose another with --out",
    "power --from unknown": "the run folder 'unknown': case id 'nonsense'",
    "power --from future": "has format 99, not",
    "numerics --experts nope": "no experts backend is called 'nope'",
    "schema --models x": "unrecognized arguments: x",
    "doctor x": "unrecognized arguments: x",
}
CODES = {"run --suite nothing": 4, "run --suite smoke -k zzz": 4}
SEVERAL = {"run --suite nothing"}  # lines, one for each reason
# What a job's environment says, and the line about it.
VARIABLES = {
    "BUILDKITE_PARALLEL_JOB=x": "BUILDKITE_PARALLEL_JOB must be a whole number, not 'x'",
    "BUILDKITE_PARALLEL_JOB=1": "BUILDKITE_PARALLEL_JOB_COUNT is not set",
    "BUILDKITE_PARALLEL_JOB=5 BUILDKITE_PARALLEL_JOB_COUNT=2": "the environment says shard 6 of 2",
    "SLURM_ARRAY_TASK_ID=4": "SLURM_ARRAY_TASK_COUNT is not set",
    "": "reads BUILDKITE_PARALLEL_JOB or SLURM_ARRAY_TASK_ID, and neither is set; give i/n",
}


def stored(name, **changes):
    """Make a run folder like the good one, with other values in its run.json."""
    shutil.copytree("good", name)
    info = json.loads(Path(name, "run.json").read_text())
    Path(name, "run.json").write_text(json.dumps({**info, **changes}))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with files and run folders that no command can use, and one good run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("bad-input"))
        patch.setattr(harness.engine.scheduler, "run", FakeEngine().run)
        patch.setattr(machine, "detect", lambda: machine.planned_for("cpu"))
        Path("configs").mkdir()
        Path("configs/matrix.yaml").write_text(TEXT)
        Path("afolder").mkdir()
        files = {
            "binary": bytes(range(256)),
            "empty": b"",
            "text": b"hello\n",
            "list.yaml": b"- 1\n",
            "zero.yaml": b"a: 1\nb \0",
            "open.yaml": b"version: [1\n",
            "deep.yaml": b"[" * 3000,
        }
        for name, data in files.items():
            Path(name).write_bytes(data)
        assert cli.main([*CASE.split(), "--out", "good"]) == 0
        stored("future", format=99)
        stored("unknown", cases=["nonsense"])
        stored("intcases", cases=5)
        stored("strange")
        events = Path("strange/events.jsonl")
        events.write_text(events.read_text().replace(BASE, "nonsense"))
        for name, data in (("bytes", files["binary"]), ("void", b""), ("list", b"[]")):
            Path(name).mkdir()
            Path(name, "run.json").write_bytes(data)
        stored("closed")
        Path("closed/events.jsonl").unlink()
        Path("closed/events.jsonl").mkdir()
        yield Path()


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("command", LINES)
def test_a_wrong_command_line_is_one_clear_line_and_nothing_is_written(place, capsys, command):
    before = contents(place)
    assert cli.main(command.split()) == CODES.get(command, 3)
    error = capsys.readouterr().err
    assert LINES[command] in error
    assert error.count("\n") == 1 or command in SEVERAL
    assert contents(place) == before


@pytest.mark.parametrize("variables", VARIABLES)
def test_a_wrong_variable_of_a_job_is_one_clear_line(place, monkeypatch, capsys, variables):
    for name in ("BUILDKITE_PARALLEL_JOB", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for word in variables.split():
        monkeypatch.setenv(*word.split("="))
    before = contents(place)
    assert cli.main([*CASE.split(), "--shard", "auto"]) == 3
    error = capsys.readouterr().err
    assert error.startswith("--shard auto")
    assert VARIABLES[variables] in error
    assert error.count("\n") == 1
    assert contents(place) == before
