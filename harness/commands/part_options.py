"""Define the options that choose a part of what is selected, as `harness.plan.parts` reads them."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING

from harness.matrix.suite_size import MOST_SECONDS

if TYPE_CHECKING:
    import argparse

MOST = 2**31 - 1  # of any option that is a whole number


def add_merge(command: argparse.ArgumentParser) -> None:
    """Add the options of `merge`."""
    command.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="a shard's folder")
    text = "the folder to write (runs/TIME-SUITE-merged)"
    command.add_argument("--out", type=Path, metavar="DIR", help=text)


def add_ci(command: argparse.ArgumentParser) -> None:
    """Add the options of `ci`."""
    add = command.add_argument
    add("--suite", required=True, metavar="NAME", help="the suite that the pipeline runs")
    add("--config", type=Path, metavar="FILE", help="the matrix file (configs/matrix.yaml)")
    add("--devices", required=True, metavar="LIST", help="machines: h100:2,mi355:2,cpu")
    text = "buildkite: steps; vllm: a test area for its generator; github: a job's matrix, as JSON"
    add("--dialect", choices=("buildkite", "vllm", "github"), default="buildkite", help=text)
    add("--upload", action="store_true", help="hand it to buildkite-agent, at most 450 jobs a time")
    add("--shards", type=positive, default=1, metavar="N", help="jobs on each kind of machine (1)")
    add("--durations-from", metavar="DIR", help="what every shard gets as its --durations-from")
    add("--minutes", type=positive, default=30, metavar="N", help="limit of a job (30)")
    text = "what its machines must have, as of run; h100/WHAT for one device; may be repeated"
    add("--require", action="append", default=[], metavar="WHAT", help=text)
    add("--extras", metavar="NAME", help="extras that are set up (cuda with NVIDIA GPUs)")
    for option, text in (
        ("--optional", "a device whose steps wait until somebody unblocks them"),
        ("--soft-fail", "a device whose failed cases do not fail the build"),
        ("--queue", "DEVICE=NAME: the agents' queue (the device's name)"),
    ):
        add(option, action="append", default=[], metavar="DEVICE", help=f"{text}; may be repeated")


def add_diff(command: argparse.ArgumentParser) -> None:
    """Add the options of `diff`."""
    command.add_argument("before", type=Path, metavar="DIR_A", help="the earlier run's folder")
    command.add_argument("after", type=Path, metavar="DIR_B", help="the later run's folder")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write markdown instead")


def add_flakes(command: argparse.ArgumentParser) -> None:
    """Add the options of `flakes`."""
    command.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="runs to add")
    text = "an SQLite file that keeps the results of earlier runs, too"
    command.add_argument("--db", type=Path, metavar="FILE", help=text)


def add_subjects(command: argparse.ArgumentParser) -> None:
    """Add the options of `subjects`."""
    command.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="runs' folders")


def add_host(command: argparse.ArgumentParser) -> None:
    """Add the options of `host`."""
    add = command.add_argument
    text = "address and port of one interface, as 10.0.0.1:4000; port 0 takes one that is free; "
    text += "slurm: of this node, for one run"
    add("--listen", required=True, metavar="ADDRESS", help=text)
    text = "a file with the token, which the run's machine has, too, and nobody else can read; "
    text += "-: the first line of the input"
    add("--token-file", type=Path, required=True, metavar="FILE", help=text)


def add_collect(command: argparse.ArgumentParser) -> None:
    """Add the options of `collect`."""
    add = command.add_argument
    add("folder", type=Path, metavar="DIR", help="where the jobs' run folders are, or will be")
    add("--context", required=True, metavar="NAME", help="of the annotation")


def positive(text: str) -> int:
    """Read a whole number of at least 1. Raises ArgumentTypeError, which argparse prints."""
    return _whole(text, least=1)


def not_negative(text: str) -> int:
    """Read a whole number of at least 0. Raises ArgumentTypeError, which argparse prints."""
    return _whole(text, least=0)


def _whole(text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise ArgumentTypeError(f"give a whole number of at least {least}, not {text!r}")
    if int(text) > MOST:
        raise ArgumentTypeError(f"give a whole number of at most {MOST:,}, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Read seconds that a case may take. Raises ArgumentTypeError, which argparse prints."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ArgumentTypeError(f"give a number of seconds above 0, not {text!r}")
    if value > MOST_SECONDS:
        raise ArgumentTypeError(f"give at most {MOST_SECONDS:,} seconds, not {text!r}")
    return value


def add_part(command: argparse.ArgumentParser) -> None:
    """Add the options of `run`, `list` and `plan`."""
    add = command.add_argument
    text = "one of n shards that take about as long; auto: Buildkite's or Slurm's variables"
    add("--shard", metavar="I/N", help=text)
    text = "an earlier run: how long cases take"
    add("--durations-from", type=Path, metavar="DIR", help=text)
    text = "only the most valuable cases that fit into it by estimate: 90s, 8m, 2h"
    add("--time-budget", metavar="TIME", help=text)
    text = "only cases with members whose files differ from a commit, or use such files"
    add("--only-changed", metavar="REV", help=text)
    text = "the file of known failures (configs/known_failures.yaml)"
    add("--known-failures", type=Path, metavar="FILE", help=text)
