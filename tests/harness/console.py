"""What tests of commands look at: the summary line and the run's folder."""

import re
from pathlib import Path

from harness.record.run_folder import RunFolder

# Of `harness list`: more lines than a pipe holds, from the root of the repository.
LONG = "--config tests/harness/commands/long_list.yaml --suite long --platform cuda_sm90"


def last_line(capsys):
    return capsys.readouterr().out.splitlines()[-1]


NAMES = ["passed", "failed", "error", "crashed", "hung", "skipped", "vacuous", "flaky", "not_run"]


def summary(cases, seconds=r"\d+\.\d", **counts):
    pairs = " ".join(f"{name}={counts.get(name, 0)}" for name in NAMES)
    return re.compile(rf"cases={cases} {pairs} seconds={seconds}\Z")


def the_folder():
    (path,) = Path("runs").iterdir()
    return RunFolder.open(path)
