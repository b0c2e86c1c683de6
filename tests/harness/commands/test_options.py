"""The options of the command line, and what argparse refuses of them."""

import pytest

from harness import cli
from harness.commands.options import parse


def test_a_command_line_is_kept_as_it_was():
    argv = ["run", "--suite", "smoke", "-x"]
    args = parse(argv)
    assert (args.command, args.argv, args.suite, args.fail_fast) == ("run", argv, "smoke", True)
    argv.append("-v")
    assert args.argv == argv[:-1]


def test_options_that_may_be_repeated_add_up():
    args = parse(["run", "--case", "a", "b", "--case", "c", "--require", "cuda", "--require", "x"])
    assert args.case == ["a", "b", "c"]
    assert args.require == ["cuda", "x"]
    assert parse(["run"]).require == []


@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        ("run", {"seeds": 1, "slots": None, "retries": None, "time_limit": None, "case": None}),
        ("power", {"seeds": 1, "slots": None, "folder": None, "require": []}),
        ("fuzz", {"budget": "5m", "seed": 0, "slots": None, "cases": None, "require": []}),
        ("list", {"suite": None, "devices": None, "platform": None, "require": []}),
        ("plan", {"suite": None, "last_failed": False, "experts": None, "layer": None}),
        ("fuzz", {"model": None, "layouts": None, "tokens": None, "quant": None}),
        ("list", {"model": None, "layouts": None, "tokens": None, "quant": None}),
        ("numerics", {"experts": None, "layer": None, "quant": None, "time_limit": 300.0}),
        ("doctor", {}),
        ("schema", {"models": False}),
    ],
)
def test_what_is_not_set_has_its_default(command, defaults):
    args = vars(parse([command]))
    assert {name: args[name] for name in defaults} == defaults


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "required: COMMAND"),
        (["rnu"], "invalid choice: 'rnu'"),
        (
            ["run", "--suit", "smoke"],
            "unrecognized arguments: --suit smoke; see `python -m harness COMMAND --help`",
        ),
        (["run", "--slots", "two"], "give a whole number of at least 1, not 'two'"),
        (["fuzz", "--slots", "0"], "--slots: give a whole number of at least 1, not '0'"),
        (["compile", "--jobs", "-2"], "--jobs: give a whole number of at least 1, not '-2'"),
        (["fuzz", "--suite", "smoke"], "unrecognized arguments: --suite"),
        (["report"], "required: DIR; see `python -m harness report --help`"),
        (["fuzz", "--seed", "x"], "--seed: give a whole number of at least 0, not 'x'"),
        (["fuzz", "--seed", "-1"], "--seed: give a whole number of at least 0, not '-1'"),
        (["fuzz", "--cases", "0"], "--cases: give a whole number of at least 1, not '0'"),
        (["fuzz", "--devices", "0"], "--devices: give a whole number of at least 1, not '0'"),
        (["run", "--retries", "-1"], "--retries: give a whole number of at least 0, not '-1'"),
        (["fuzz", "--seed", "9" * 20], "--seed: give a whole number of at most 2,147,483,647"),
        (["run", "--seeds", "0"], "--seeds: give a whole number of at least 1, not '0'"),
        (["coverage", "--block", "0"], "--block: give a whole number of at least 1, not '0'"),
        (
            ["fuzz", "--time-limit", "-3"],
            "give a number of seconds above 0, not '-3'",
        ),
        (["run", "--time-limit", "nan"], "give a number of seconds above 0, not 'nan'"),
        (["run", "--time-limit", "1e7"], "give at most 1,000,000 seconds, not '1e7'"),
        (["numerics", "--time-limit", "inf"], "give a number of seconds above 0, not 'inf'"),
        (["numerics", "--time-limit", "1m"], "give a number of seconds above 0, not '1m'"),
        (["schema", "--models", "--known-failures"], "not allowed with argument --models"),
    ],
)
def test_a_usage_error_exits_3_and_not_2(argv, text, capsys):
    assert cli.main(argv) == 3
    captured = capsys.readouterr()
    assert captured.err.startswith("python -m harness")
    assert len(captured.err.splitlines()) == 1
    assert text in captured.err
    assert captured.out == ""  # which may be a file of ids


@pytest.mark.parametrize(
    "argv",
    [["list", "--suite", ""], ["list", "--suite="], ["merge", "a", "--out", ""], ["report", ""]],
)
def test_an_empty_argument_is_a_variable_that_is_not_set(argv, capsys):
    assert cli.main(argv) == 3
    shown = capsys.readouterr()
    name = "report" if argv[0] == "report" else argv[-1].rstrip("=") or argv[-2]
    text = "is given an empty value; leave it out, or set the variable"
    assert (shown.out, shown.err) == ("", f"{name} {text}\n")


def test_help_explains_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert stop.value.code == 0
    assert "4 nothing to run, 75 the machine failed" in capsys.readouterr().out


def test_an_argument_that_is_no_text_is_named(capsys):
    assert cli.main(["run", "--out", "\udcff"]) == 3
    shown = capsys.readouterr().err
    assert shown == "the argument '\\udcff' is not text in UTF-8; rename what it names\n"
