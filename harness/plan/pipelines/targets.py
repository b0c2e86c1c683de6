"""Read what a pipeline is asked for, such as `h100:2,mi355:2`, and write each job's commands."""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass

from harness.errors import UsageError

# Name of the device as CI owners call it -> platform of the table.
CHIPS = {
    "cpu": "cpu",
    "a100": "cuda_sm80",
    "h100": "cuda_sm90",
    "h200": "cuda_sm90",
    "b200": "cuda_sm100",
    "mi300": "rocm_gfx942",
    "mi325": "rocm_gfx942",
    "mi355": "rocm_gfx950",
}
MOST_DEVICES = 8  # of one machine
_TARGET = re.compile(r"([a-z][a-z0-9]*)(?::([0-9]{1,3}))?\Z")
FILES = ("moe/", "harness/", "configs/", "scripts/", "pyproject.toml", "Makefile", ".buildkite/")
_PYTHON = {"rocm": "PYTHONPATH=. python3"}  # builds of torch and Triton are the image's own
PYTHON = ".venv/bin/python"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Devices of one kind on one machine. count: of GPUs; 0 for a CPU."""

    chip: str
    count: int

    @property
    def family(self) -> str:
        """Which software it needs: cpu, cuda or rocm."""
        return CHIPS[self.chip].partition("_")[0]

    @property
    def key(self) -> str:
        """A word that no other target has."""
        return f"{self.chip}-{self.count}" if self.count else self.chip

    @property
    def title(self) -> str:
        """What people read."""
        if not self.count:
            return "CPU"
        return f"{self.count} {self.chip.upper()}{'s' if self.count > 1 else ''}"

    @property
    def python(self) -> str:
        """The interpreter that its set-up leaves."""
        return _PYTHON.get(self.family, PYTHON)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a pipeline is asked for.

    shards: of each target. require: as of `run`, or `CHIP/...` for one kind of device. extras: of
    pyproject.toml. soft: chips whose failed cases do not fail the build. optional: chips whose
    steps wait until somebody unblocks them. queues: by chip. minutes: of a job.
    """

    suite: str
    targets: tuple[Target, ...]
    shards: int = 1
    require: tuple[str, ...] = ()
    extras: str | None = None
    soft: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    queues: tuple[tuple[str, str], ...] = ()
    minutes: int = 30
    durations_from: str | None = None

    def queue(self, target: Target) -> str:
        """Return the queue of agents with such devices."""
        return dict(self.queues).get(target.chip, target.chip)

    def name(self, target: Target) -> str:
        """Return the word for this suite on these devices, as in keys and folders."""
        return f"moe-{self.suite.replace('_', '-')}-{target.key}"

    def set_up(self, target: Target) -> str:
        """Return the command that sets up the environment."""
        if target.family == "rocm":
            return "make setup PYTHON=python3"
        extras = self.extras or ("cuda" if target.family == "cuda" else None)
        return "make setup" + (f" EXTRAS={shlex.quote(extras)}" if extras else "")

    def run(self, target: Target, out: str, shard: str | None = None) -> str:
        """Return the command that runs the suite or one shard of it. out, shard: as in a shell."""
        words = [target.python, "-m harness run --suite", self.suite, "--out", out]
        words += ["--shard", shard] if shard else []
        if self.durations_from:
            words += ["--durations-from", shlex.quote(self.durations_from)]
        return " ".join([*words, *(f"--require {word}" for word in self._required(target))])

    def _required(self, target: Target) -> list[str]:
        """Return what the machine must have; without it a case is refused, and the rest passes."""
        words = [CHIPS[target.chip]]
        words += [f"devices={target.count}"] if target.count else []
        for word in self.require:
            chip, slash, what = word.rpartition("/")
            if not slash or chip == target.chip:
                words.append(shlex.quote(what))
        return words


def targets(text: str) -> tuple[Target, ...]:
    """Read `h100:2,mi355:2,cpu`. Raises UsageError that names the part."""
    parts = [part.strip() for part in text.split(",")]
    read = [_target(part) for part in parts]
    twice = sorted({target.key for target in read if read.count(target) > 1})
    if twice:
        raise UsageError(f"--devices names {twice[0]} twice; more jobs of one kind: --shards N")
    return tuple(read)


def _target(part: str) -> Target:
    match = _TARGET.match(part)
    if match is None:
        raise UsageError(f"--devices takes a list such as h100:2,mi355:2,cpu, not {part!r}")
    chip, count = match.group(1), match.group(2)
    check_chip(chip, "--devices")
    if chip == "cpu":
        if count not in (None, "1"):
            raise UsageError(f"--devices: a CPU has no number, not {part!r}; use --shards N")
        return Target(chip=chip, count=0)
    number = int(count or 1)
    if not 1 <= number <= MOST_DEVICES:
        raise UsageError(f"--devices: a machine has 1 to {MOST_DEVICES} GPUs, not {part!r}")
    return Target(chip=chip, count=number)


def check_chip(chip: str, option: str) -> None:
    """Raise UsageError, which lists the names, if a device has no such name."""
    if chip not in CHIPS:
        close = difflib.get_close_matches(chip, CHIPS, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise UsageError(
            f"{option}: no device is called {chip!r}{hint} (known: {', '.join(CHIPS)})"
        )
