"""Running and recording: signals and failures end the ranks, and become exit codes."""

import os
import signal

import pytest

from harness import cli
from harness.commands.launch import Terminated, code_of, terminable
from harness.engine.other_seeds import FURTHER
from harness.record.result import Verdict
from tests.harness.fake_engine import BASE


def test_sigterm_ends_what_runs_inside_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_have_their_exit_codes():
    assert code_of(KeyboardInterrupt()) == 128 + signal.SIGINT
    assert code_of(Terminated()) == 128 + signal.SIGTERM


def test_the_engine_is_closed_after_a_failure_that_stops_the_run(engine):
    engine.verdicts[f"{BASE}-seed:1"] = Verdict.FAILED
    assert cli.main(["run", "--suite", "smoke", "-x"]) == 1
    assert engine.closed == 1
    assert engine.ran < 8


def test_a_run_tries_other_seeds_of_what_shows_nothing(engine):
    cli.main(["run", "--case", BASE])
    ((_, options),) = engine.calls
    assert options.other_seeds == FURTHER > 0
