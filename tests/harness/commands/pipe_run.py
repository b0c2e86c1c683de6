"""A run with an engine that runs nothing, which waits for a line after its first case.

Arguments: the run's folder, the verdict of the last case, and more options of `run`.
"""

import sys
from pathlib import Path

import harness.engine.scheduler
from harness import cli
from harness.plan import machine
from harness.record.result import Verdict
from tests.harness.fake_engine import TEXT, FakeEngine


def waiting(plan, options, pool=None):
    engine = FakeEngine()
    engine.verdicts[plan.cases[-1].id] = Verdict(sys.argv[2])
    for number, event in enumerate(engine.run(plan, options)):
        yield event
        if number == 2 and sys.stdin is not None:  # a gang, a case's start and its end
            sys.stdin.readline()


if __name__ == "__main__":
    Path("matrix.yaml").write_text(TEXT)
    harness.engine.scheduler.run = waiting
    machine.detect = lambda: machine.planned_for("cpu")
    command = ["run", "--suite", "smoke", "--config", "matrix.yaml", "--out", sys.argv[1]]
    sys.exit(cli.main([*command, *sys.argv[3:]]))
