"""Define the options that choose a part of what is selected, as `harness.plan.parts` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_merge(command: argparse.ArgumentParser) -> None:
    """Add the options of `merge`."""
    command.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="a shard's folder")
    text = "the folder to write (runs/TIME-SUITE-merged)"
    command.add_argument("--out", type=Path, metavar="DIR", help=text)


def add_part(command: argparse.ArgumentParser) -> None:
    """Add the options of `run`, `list` and `plan`."""
    add = command.add_argument
    text = "one of n shards that take about as long; auto: Buildkite's or Slurm's variables"
    add("--shard", metavar="I/N", help=text)
    text = "an earlier run: how long cases take"
    add("--durations-from", type=Path, metavar="DIR", help=text)
    text = "the file of known failures (configs/known_failures.yaml)"
    add("--known-failures", type=Path, metavar="FILE", help=text)
