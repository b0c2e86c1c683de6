"""`host`: an agent that serves until a signal ends it, and one that cannot."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text("t" * 32)
    return path


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--listen", "0.0.0.0:0", "--token-file", "token"], 3, "listen on every network"),
        (["--listen", "127.0.0.1:0", "--token-file", "none"], 3, "--token-file 'none': No such"),
        (["--listen", "192.0.2.1:0", "--token-file", "token"], 75, "cannot listen on 192.0.2.1:0"),
        (["--token-file", "token"], 3, "--listen"),
    ],
)
def test_an_agent_that_cannot_serve_says_why(token, monkeypatch, capsys, options, code, message):
    monkeypatch.chdir(token.parent)
    assert cli.main(["host", *options]) == code
    assert message in capsys.readouterr().err


def test_an_agent_without_torch_says_so_in_one_line(token, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # as `importlib` sees a missing package
    options = ["--listen", "127.0.0.1:0", "--token-file", str(token)]
    assert cli.main(["host", *options]) == 75
    output = capsys.readouterr()
    assert output.err.startswith("no case can run: every rank imports torch, and ")
    assert (output.err.count("\n"), output.out) == (1, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it(token, number, code):
    command = [sys.executable, "-m", "harness", "host", "--listen", "127.0.0.1:0"]
    agent = subprocess.Popen(
        [*command, "--token-file", str(token)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    with agent:
        line = agent.stdout.readline()
        agent.send_signal(number)
        assert agent.wait(20) == code
    assert line.startswith("listening on 127.0.0.1:")
    assert ":0;" not in line  # the port that was free
