"""Define the options that select cases, as `harness.plan.selection` and its rooms read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.part_options import positive

if TYPE_CHECKING:
    import argparse

MODEL = "a real model's shapes: a name of configs/models.yaml, or the path of a config.json"


def add_matrix(command: argparse.ArgumentParser, default: str = "") -> None:
    """Add --suite and --config. default: what the help adds to a suite's name."""
    command.add_argument("--suite", metavar="NAME", help=f"a suite{default}")
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="the matrix file (configs/matrix.yaml)"
    )


def add_layer(command: argparse.ArgumentParser) -> None:
    """Add --layer."""
    text = "one whole layer with its own gate and experts for all: pkg.mod:Class"
    command.add_argument("--layer", metavar="NAME", help=text)


def add_cases(command: argparse.ArgumentParser) -> None:
    """Add the other ways to select cases, and the options that replace members in all of them."""
    add = command.add_argument
    add("--case", nargs="+", action="extend", metavar="ID", help="cases by their ids")
    add(
        "--last-failed", action="store_true", help="what did not pass in the newest folder of runs/"
    )
    add("--experts", metavar="NAME", help="one experts backend for all: a name or pkg.mod:Class")
    add_layer(command)
    add_model(command)
    text = "recorded workloads: the folder of a data set of FlashInfer Trace"
    add("--trace", metavar="PATH", help=text)
    add_narrowing(command)


def add_narrowing(command: argparse.ArgumentParser) -> None:
    """Add what narrows a selection; `harness.plan.narrowing` reads it."""
    add = command.add_argument
    text = "only cases whose ids match: words with and, or, not and parentheses"
    add("-k", dest="keep", metavar="EXPRESSION", help=text)
    text = "skip cases whose ids match, as with -k; each needs a --reason; may be repeated"
    add("--exclude", action="append", default=[], metavar="EXPRESSION", help=text)
    text = "why they are skipped, for the record"
    add("--reason", action="append", default=[], metavar="TEXT", help=text)


def add_model(command: argparse.ArgumentParser) -> None:
    """Add --model and what goes with it; `harness.plan.model_selection` reads them."""
    add = command.add_argument
    add("--model", metavar="NAME", help=MODEL)
    text = "with --model: tp:2, dp:2, ep:8, tp:2+ep:8, or ep:8/1 for one rank's share"
    add("--layouts", metavar="LIST", help=f"{text} (tp:1,ep:8/1; with --trace tp:1)")
    add("--tokens", metavar="LIST", help="with --model: tokens per DP rank (1,16,512)")
    text = "with --model: methods instead of the checkpoint's own, as none,fp8_block"
    add("--quant", metavar="LIST", help=text)


def add_platform(command: argparse.ArgumentParser) -> None:
    """Add --platform and --devices, which plan for another machine than this one."""
    command.add_argument("--platform", metavar="NAME", help="plan for another chip")
    command.add_argument("--devices", type=positive, metavar="N", help="GPUs of that chip (2)")


def add_require(command: argparse.ArgumentParser) -> None:
    """Add --require; `harness.plan.requirements` reads it."""
    command.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="WHAT",
        help="end with 75 unless the machine has it: a platform, a feature, devices=N, "
        "experts=NAME, all2all=NAME or quant=NAME; may be repeated",
    )
