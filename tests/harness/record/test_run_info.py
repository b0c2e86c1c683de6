"""A `run.json` that somebody edited is named with the rule that it breaks."""

import dataclasses
import json

import pytest

from harness import cli
from harness.record.run_info import RunInfo, RunMachine, RunOptions
from tests.harness.fake_engine import BASE
from tests.harness.record.infos import run_info

COMMANDS = {
    "report": ["report", "runs/here"],
    "markdown": ["report", "runs/here", "--markdown", "x.md", "--junit", "x.xml"],
    "resume": ["run", "--resume", "runs/here"],
    "power": ["power", "--from", "runs/here"],
    "last-failed": ["run", "--last-failed"],
}


@pytest.fixture
def edited(engine, tmp_path, capsys):
    """Change the file of a run that has been."""
    from harness.record.result import Verdict

    engine.verdicts = {BASE: Verdict.FAILED}
    cli.main(["run", "--suite", "smoke", "--out", "runs/here"])
    path = tmp_path / "runs/here/run.json"
    capsys.readouterr()
    return lambda change: path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("value", "name"), [([1], "list"), ("x", "str"), (None, "NoneType")])
def test_a_file_without_an_object_is_named(edited, capsys, command, value, name):
    edited(lambda _: value)
    assert cli.main(COMMANDS[command]) == 3
    text = f"'runs/here/run.json' must hold a JSON object, not a {name}; restore the file"
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("key", ["cases", "refused"])
def test_a_missing_key_is_named(edited, capsys, command, key):
    edited(lambda info: {name: value for name, value in info.items() if name != key})
    assert cli.main(COMMANDS[command]) == 3
    error = capsys.readouterr().err
    assert f"'runs/here/run.json': {key} must be a list of " in error
    assert "but the key is missing" in error


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("cases", {"a": 1}, "a list of case ids, not \"{'a': 1}\""),
        ("cases", [1], "a list of case ids, not '[1]'"),
        ("refused", "x", "a list of objects, each with the texts case, code and text, not 'x'"),
        ("refused", [{"case": "x"}], "a list of objects, each with the texts case, code and text"),
        ("suite", 3, "a suite's name or null, not '3'"),
        ("platform", [], "an object with the text name, not '[]'"),
        ("platform", {"name": 1}, "an object with the text name"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_value_of_the_wrong_kind_is_named(edited, capsys, command, key, value, rule):
    edited(lambda info: {**info, key: value})
    assert cli.main(COMMANDS[command]) == 3
    assert f"'runs/here/run.json': {key} must be {rule}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["resume", "last-failed"])
@pytest.mark.parametrize("value", [None, {}, {"time_limit": "x", "retries": 1}])
def test_limits_that_are_none_are_named_where_they_are_needed(edited, capsys, command, value):
    edited(lambda info: {**info, "options": value})
    assert cli.main(COMMANDS[command]) == 3
    text = "options must be an object with the numbers time_limit and retries"
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("time", "noon"), ("time", True), ("versions", ["torch"]), ("versions", {"torch": 2})],
        *[("argv", "run"), ("git", 7)],
    ],
)
def test_what_a_report_shows_is_checked(edited, capsys, key, value):
    edited(lambda info: {**info, key: value})
    assert cli.main(COMMANDS["markdown"]) == 3
    assert f"'runs/here/run.json': {key} must be a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "part", "value"),
    [
        *[
            ("options", "save_tensors", 1),
            ("options", "plain_call", 0),
            ("options", "undeclared", "no"),
            ("options", "seed", "x"),
            ("options", "time_budget", "8m"),
            ("options", "trace", 1),
            ("platform", "cores", "two"),
        ],
        *[("platform", "features", "cpu"), ("platform", "host", None)],
    ],
)
def test_a_part_of_the_wrong_kind_is_named(edited, capsys, key, part, value):
    edited(lambda info: {**info, key: {**info[key], part: value}})
    assert cli.main(COMMANDS["report"]) == 3
    error = capsys.readouterr().err
    assert f"'runs/here/run.json': {key} must be an object with " in error
    assert f"{part}" in error.split(", not '")[0]


def test_what_is_written_is_what_is_read(tmp_path):
    info = run_info(
        cases=["a", "b"],
        refused=[("c", "code", "text")],
        options=RunOptions(
            time_limit=5.5,
            retries=2,
            save_tensors=True,
            plain_call=True,
            undeclared=True,
            seed=3,
            time_budget=60.0,
            trace="/a/set",
        ),
        platform=RunMachine(name="cpu", features=("cpu", "triton"), cores=2, host="here"),
        argv=("run", "--suite", "smoke"),
        versions={"torch": "2"},
        git="abc",
        time=12.5,
        left_out=("d",),
    )
    data = json.loads(json.dumps(info.to_json()))
    assert (data["format"], data["cases"], data["options"]["seed"]) == (4, ["a", "b"], 3)
    assert RunInfo.from_json(tmp_path, data) == info
    plain = run_info().to_json()
    assert not {"seed", "time_budget", "trace"} & plain["options"].keys()
    assert "left_out" not in plain


def test_keys_of_others_are_left_out_and_what_a_report_shows_may_lack(tmp_path):
    data = json.loads(json.dumps(run_info(suite=None).to_json()))
    data = {**data, "note": [1], "options": {**data["options"], "note": 1}}
    for key in ("time", "argv", "versions", "git"):
        del data[key]
    assert RunInfo.from_json(tmp_path, data) == run_info(suite=None)


def test_a_value_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        run_info().suite = "x"


# events.jsonl


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("line", ["{", '"text"', "[1]", '{"event": "Unknown"}', "\x00\x00", ""])
def test_an_unreadable_line_is_counted_and_named_once(edited, tmp_path, capsys, command, line):
    path = tmp_path / "runs/here/events.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = lines[7] = lines[8] = line
    path.write_text("\n".join(lines) + "\n")
    cli.main(COMMANDS[command])
    error = capsys.readouterr().err
    text = "warning: 'runs/here/events.jsonl': skipped 3 unreadable line(s): 4, 8-9; "
    assert error.count(text) == error.count("unreadable") == 1


def test_a_last_line_that_a_crash_cut_off_is_left_out_silently(edited, tmp_path, capsys):
    path = tmp_path / "runs/here/events.jsonl"
    path.write_text(path.read_text()[:-20])
    cli.main(["report", "runs/here"])
    assert capsys.readouterr().err == ""
