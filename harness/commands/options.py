"""Define the command line: commands, options and their help. Usage errors exit with 3."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness.commands.part_options import (
    add_ci,
    add_collect,
    add_diff,
    add_flakes,
    add_host,
    add_merge,
    add_part,
    add_subjects,
    not_negative,
    positive,
    seconds,
)
from harness.commands.selection_options import (
    MODEL,
    add_cases,
    add_layer,
    add_matrix,
    add_model,
    add_platform,
    add_require,
)
from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXITS = """exit codes: 0 all passed, 1 a case did not, 2 cases left (run --resume DIR), 3 usage or
configuration, 4 nothing to run, 75 the machine failed, 128+N ended by signal N"""

_NUMERICS_EXITS = """exit codes: 0 the outputs are explained and the row says nothing else, 1 no
customary rounding explains them, the row is wrong or the member failed, 3 usage, 4 it takes no
case, 75 a package or device is missing"""

_COVERAGE_EXITS = """exit codes: 0 every combination that can run is covered, 1 one is not, 3 usage
or configuration, 4 no case can run"""

COMPILED = Path("build/compile-matrix")  # what `compile` and `coverage --kernels` keep


class _Parser(argparse.ArgumentParser):
    """Raise a usage error with one line: argparse's exit code, 2, means an unfinished run."""

    def error(self, message: str) -> NoReturn:
        # argparse reports unrecognized arguments by the parser of all commands.
        is_unknown = message.startswith("unrecognized arguments")
        help_line = f"{self.prog}{' COMMAND' * is_unknown} --help"
        raise UsageError(f"{self.prog}: {message}; see `{help_line}`")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read a command line; `command` holds the command's name, `argv` the line itself."""
    args = parser_of_commands().parse_args(argv)
    _check_empty(argv)
    _check_text(argv)
    args.argv = list(argv)
    return args


def parser_of_commands() -> argparse.ArgumentParser:
    """Return the parser, with one of its own for each command."""
    parser = _Parser(
        prog="python -m harness",
        description="Tests fused mixture-of-experts layers on every layout of a matrix.",
        epilog=_EXITS,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _run(_command(commands, "run", "run cases and report which pass"))
    _fuzz(_command(commands, "fuzz", "run random cases, and shrink those that fail"))
    _power(_command(commands, "power", "show that a suite would reject each wrong answer"))
    _numerics(_command(commands, "numerics", "find where a member rounds, to declare it"))
    for name, text in (("list", "list a suite's cases"), ("plan", "show a suite's jobs")):
        command = _command(commands, name, f"{text}, and what is refused, by reason")
        add_matrix(command, default=" (smoke)")
        add_cases(command)
        add_require(command)
        add_part(command)
        add_platform(command)
    _coverage(_command(commands, "coverage", "show that a suite has every combination it promises"))
    command = _command(commands, "explain", "show which backend a case gets, and why not others")
    command.add_argument("--case", required=True, metavar="ID", help="a case by its id")
    command.add_argument("--platform", metavar="NAME", help="on another chip")
    _compile(_command(commands, "compile", "compile the suites' Triton kernels; needs no GPU"))
    _report(_command(commands, "report", "report on a run's folder"))
    add_ci(_command(commands, "ci", "print a pipeline that runs a suite on several machines"))
    add_collect(_command(commands, "collect", "join and report what a pipeline's jobs ran"))
    add_diff(_command(commands, "diff", "show what changed from one run to another"))
    add_flakes(_command(commands, "flakes", "show how often cases fail and pass over many runs"))
    add_subjects(_command(commands, "subjects", "show what runs found in other people's code"))
    add_merge(_command(commands, "merge", "join the shards of a suite, if they are all of it"))
    command = _command(commands, "schema", "print the JSON Schema of the matrix file")
    exclusive = command.add_mutually_exclusive_group()
    exclusive.add_argument("--models", action="store_true", help="of configs/models.yaml instead")
    text = "of configs/known_failures.yaml instead"
    exclusive.add_argument("--known-failures", action="store_true", help=text)
    text = "of configs/regressions.yaml instead"
    exclusive.add_argument("--regressions", action="store_true", help=text)
    add_host(_command(commands, "host", "let runs on other machines start ranks on this one"))
    _command(commands, "doctor", "show devices, versions, and what each member needs")
    return parser


def _check_empty(argv: Sequence[str]) -> None:
    """Raise UsageError for an empty argument: most often the value of a variable that is not set.

    Where a default would take its place, another suite would run than was meant.
    """
    for before, argument in zip(("", *argv), argv, strict=False):
        name = before if argument == "" else argument.removesuffix("=")
        if argument == "" or (argument.startswith("--") and argument.endswith("=")):
            raise UsageError(f"{name} is given an empty value; leave it out, or set the variable")


def _check_text(argv: Sequence[str]) -> None:
    """Raise UsageError for bytes that are no text: a record of the run could not name them."""
    for argument in argv:
        if argument.encode("utf-8", "replace").decode() != argument:
            text = "is not text in UTF-8; rename what it names"
            raise UsageError(f"the argument {argument!r} {text}")


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, allow_abbrev=False
    )
    return command


def _coverage(command: argparse.ArgumentParser) -> None:
    command.epilog = _COVERAGE_EXITS
    add_matrix(command, default=" (smoke)")
    add_platform(command)
    add = command.add_argument
    add("--block", type=positive, metavar="N", help="only the suite's Nth block, counted from 1")
    text = "write the block's parameters and constraints in PICT's language"
    add("--pict", type=Path, metavar="FILE", help=text)
    text = "which Triton kernels --platform can launch, with which compile-time arguments, that "
    add("--kernels", type=Path, metavar="DIR", help=f"{text}the run in this folder did not launch")


_UNDECLARED = "judge as if the row under test stated no numerics"
_SLOTS = "ranks that may run at a time on the CPU (twice its cores), or on each GPU (up to 8)"


def _run(command: argparse.ArgumentParser) -> None:
    add_matrix(command)
    add_cases(command)
    add_require(command)
    add_part(command)
    add = command.add_argument
    add("--resume", type=Path, metavar="DIR", help="continue with the cases that have no verdict")
    add("--out", type=Path, metavar="DIR", help="the run's folder (runs/TIME-SUITE)")
    add("--seeds", type=positive, default=1, metavar="N", help="each case with N seeds (1)")
    text = "run one case N times, in warm ranks, and count its failures"
    add("--repeat", type=positive, metavar="N", help=text)
    add(
        "--retries",
        type=not_negative,
        metavar="N",
        help="tries of a failed case, each in a fresh gang",
    )
    add("--slots", type=positive, metavar="N", help=_SLOTS)
    text = "spread each gang over these hosts, as 10.0.0.1:4000,10.0.0.2:4000; see `host`; slurm: "
    text += "over the nodes of this Slurm allocation"
    add("--hosts", metavar="LIST", help=text)
    add("--token-file", type=Path, metavar="FILE", help="with --hosts: the token that they have")
    text = "where gangs run: on this machine, or on a Ray cluster, which places them (local)"
    add("--engine", choices=("local", "ray"), default="local", help=text)
    add("--time-limit", type=seconds, metavar="S", help="seconds that one case may take")
    add("-x", dest="fail_fast", action="store_true", help="stop at the first failure")
    add(
        "--plain-call",
        action="store_true",
        help="one more call a case, neither poisoned nor recorded",
    )
    add("--undeclared", action="store_true", help=_UNDECLARED)
    add("--save-tensors", action="store_true", help="keep every case's tensors in the run's folder")
    add("-v", dest="verbose", action="store_true", help="gangs too, and passed cases when live")


def _fuzz(command: argparse.ArgumentParser) -> None:
    add_require(command)
    add = command.add_argument
    add("--budget", default="5m", metavar="TIME", help="how long: 90s, 5m, 2h (5m)")
    add("--cases", type=positive, metavar="N", help="run at most N cases")
    add(
        "--seed",
        type=not_negative,
        default=0,
        metavar="S",
        help="the same seed draws the same cases (0)",
    )
    add("--experts", metavar="NAME", help="one experts backend: a name or pkg.mod:Class")
    add_layer(command)
    text = "what every case has, as in case ids: router:sigmoid no_renorm tp:2; may be repeated"
    add("--set", dest="fixed", nargs="+", action="extend", default=[], metavar="TOKEN", help=text)
    add_model(command)
    add("--devices", type=positive, metavar="N", help="use N of this machine's GPUs")
    add("--out", type=Path, metavar="DIR", help="the run's folder (runs/TIME-fuzz)")
    text = (
        "append the smallest failing cases, which every suite then runs (configs/regressions.yaml)"
    )
    add("--regressions", type=Path, metavar="FILE", help=text)
    add("--slots", type=positive, metavar="N", help=_SLOTS)
    add("--time-limit", type=seconds, metavar="S", help="seconds that one case may take")
    add("--undeclared", action="store_true", help=_UNDECLARED)
    add("-x", dest="fail_fast", action="store_true", help="stop after the first failing batch")
    add("-v", dest="verbose", action="store_true", help="passed cases too")


def _power(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    _run(command)
    add("--from", dest="folder", type=Path, metavar="DIR", help="read a run's folder, run nothing")


def _numerics(command: argparse.ArgumentParser) -> None:
    command.epilog = _NUMERICS_EXITS
    add = command.add_argument
    add("--experts", metavar="NAME", help="the experts backend: a name or pkg.mod:Class")
    add_layer(command)
    add("--router", metavar="NAME", help="the router: a name or pkg.mod:Class")
    add(
        "--case", metavar="ID", help="one case's layer and backend, with 1, 2 and 4 experts a token"
    )
    add("--model", metavar="NAME", help=MODEL)
    add("--quant", metavar="NAME", help="a quantization method (the first that the row takes)")
    add("--time-limit", type=seconds, default=300.0, metavar="S", help="seconds in all (300)")


def _compile(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--suite",
        action="append",
        metavar="NAME",
        help="a suite; may be repeated (all but huge)",
    )
    add("--config", type=Path, metavar="FILE", help="the matrix file (configs/matrix.yaml)")
    text = "a chip; may be repeated (cuda_sm90, cuda_sm100, rocm_gfx942, rocm_gfx950)"
    add("--platform", action="append", metavar="NAME", help=text)
    text = f"results of earlier runs ({COMPILED})"
    add("--cache", type=Path, default=COMPILED, metavar="DIR", help=text)
    add("--jobs", type=positive, metavar="N", help="kernels compiled at a time (one on each core)")


def _report(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML instead")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write markdown instead")
    text = "write one HTML page instead (DIR/report.html)"
    command.add_argument("--html", type=Path, nargs="?", const=Path(), metavar="FILE", help=text)
    text = "write what ranks did over time, for Perfetto or chrome://tracing (DIR/trace.json)"
    command.add_argument("--trace", type=Path, nargs="?", const=Path(), metavar="FILE", help=text)
    text = "write results of recorded workloads as JSON lines of FlashInfer Trace"
    command.add_argument("--evaluations", type=Path, metavar="FILE", help=text)
