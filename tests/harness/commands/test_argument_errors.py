"""Hostile values of every option of every command: one line that can be shown, nothing written.

Commands and options are those of the parser, so that a new one is tried as soon as it is there.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
from pathlib import Path

import pytest

import harness.engine.scheduler
from harness import cli
from harness.commands import fuzz_loop
from harness.commands.argument_errors import of_path, readable
from harness.commands.options import parser_of_commands
from harness.plan import machine
from tests.harness.fake_engine import BASE, TEXT, FakeEngine

VALUES = (
    *(" ", "x", "-1", "0", "1.5", "nan", "9" * 30, "é", "\udcff", "a\nb", "\x1b[31m", "%s{0}"),
    *("x" * 300, "y/" * 3000, "afolder", "binary", "nofile/x", "..", "1:2", "a=b", "a,,", "[", "("),
    *("x:y", "m:1", "list.json", "-"),
)
# The rest of a command line with which a command needs no ranks, no network and no compiler.
REST = {
    "run": ["--case", BASE],
    "power": ["--case", BASE],
    "fuzz": ["--budget", "1s"],
    "list": [],
    "plan": [],
    "coverage": [],
    "explain": ["--case", BASE],
    "schema": [],
    "ci": ["--suite", "smoke", "--devices", "cpu"],
    "collect": ["--context", "c"],
    "diff": ["good"],
    "flakes": [],
    "subjects": [],
    "merge": [],
    "report": ["good"],
}
WAYS = {"--suite", "--model", "--trace", "--resume", "--last-failed", "--case", "--devices"}
WITH = {
    "--exclude": ["--reason", "why"],
    "--reason": ["--exclude", "x"],
    "--hosts": ["--token-file", "binary"],
    "--token-file": ["--hosts", "127.0.0.1:1"],
    "--layouts": ["--model", "qwen3-30b-a3b"],
    "--tokens": ["--model", "qwen3-30b-a3b"],
    "--quant": ["--model", "qwen3-30b-a3b"],
}
NOT_TRIED = {"host", "numerics", "compile", "doctor"}  # they would start ranks or listen


def commands():
    (action,) = (
        a for a in parser_of_commands()._actions if isinstance(a, argparse._SubParsersAction)
    )
    return action.choices


def lines_of(command):
    """Yield command lines in which one option after the other has each of the values."""
    for action in commands()[command]._actions:
        if action.nargs == 0:  # a flag
            continue
        option = action.option_strings[0] if action.option_strings else None
        rest = [] if option in WAYS and command != "fuzz" else REST[command]
        if command == "ci":
            rest = [
                word for i, word in enumerate(rest) if option not in rest[max(0, i - 1) : i + 1]
            ]
        for value in VALUES:
            given = [value] if option is None else [f"{option}={value}"]
            yield [command, *given, *([] if option in WITH and "--model" in WITH[option] else rest),
                   *WITH.get(option, [])]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a matrix file, a good run, and files that no command can read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("hostile"))
        patch.setattr(harness.engine.scheduler, "run", FakeEngine().run)
        patch.setattr(machine, "detect", lambda: machine.planned_for("cpu"))
        patch.setattr(fuzz_loop.Fuzzer, "warm", lambda *_: None)
        patch.setattr(fuzz_loop.Fuzzer, "go", lambda *_, **__: None)
        Path("configs").mkdir()
        Path("configs/matrix.yaml").write_text(TEXT)
        Path("afolder").mkdir()
        Path("binary").write_bytes(bytes(range(256)))
        Path("list.json").write_text("[]")
        assert cli.main(["run", "--case", BASE, "--out", "good"]) == 0
        yield Path.cwd()


def contents(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def restore(folder, kept):
    """Remove what a command that took a value has written."""
    for path in sorted(set(contents(folder)) - set(kept), reverse=True):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_every_command_is_tried_or_said_not_to_be():
    assert set(commands()) == set(REST) | NOT_TRIED


@pytest.mark.parametrize("command", REST)
def test_each_value_is_taken_or_refused_in_one_line(place, tmp_path, monkeypatch, capsys, command):
    shutil.copytree(place, tmp_path / "place", copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path / "place")
    before = contents(Path())
    for argv in lines_of(command):
        code = cli.main(argv)
        error = capsys.readouterr().err
        assert code in (0, 1, 3, 4), (argv, error)
        assert error.replace("\n", "").isprintable(), argv
        if code == 3:
            assert contents(Path()) == before, argv
            of_file = ".json:" in error or "binary:" in error  # has a line for each error
            assert error.count("\n") == 1 or of_file, (argv, error)
            assert len(error) < 2500, argv
        else:
            restore(Path(), before)
            before = contents(Path())


def test_arguments_are_escaped_and_shortened_and_nothing_else_is():
    assert readable("two\nlines", ["run", "x"]) == "two\nlines"
    assert readable("no 'a\nb', no \x1b", ["--set", "a\nb", "--k=\x1b"]) == r"no 'a\nb', no \x1b"
    assert readable("two\nlines", ["\n", "", " "]) == "two\nlines"
    long = "ab" * 1000
    shown = readable(f"no {long!r} there", ["--suite", long])
    assert shown == f"no '{'ab' * 120}[... 2,000 characters]{'ab' * 30}' there"
    assert readable("y" * 300, ["y" * 300]) == "y" * 300


def test_a_path_of_the_command_line_that_cannot_be_used_is_named(tmp_path):
    def error(number, path):
        return OSError(number, os.strerror(number), str(path))

    inside = tmp_path / "d" / "run.json"
    denied = error(errno.EACCES, inside)
    text = f"cannot use {str(inside)!r}: Permission denied; give another path"
    assert of_path(denied, ["report", str(tmp_path / "d")]) == text
    assert of_path(denied, ["run", f"--out={tmp_path / 'd'}"]) == text
    assert of_path(denied, ["run", "--out", "elsewhere"]) is None
    assert of_path(error(errno.EIO, inside), ["report", str(tmp_path / "d")]) is None
    assert of_path(OSError(errno.EACCES, "x"), ["report", str(tmp_path)]) is None
