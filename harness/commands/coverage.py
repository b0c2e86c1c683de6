"""Run `coverage`: print the certificate of a suite, block by block. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.commands.kernel_coverage import show_kernels
from harness.commands.listing import machine_of
from harness.errors import ExitCode, UsageError, reason_of
from harness.matrix import expand
from harness.matrix.load import find, load
from harness.matrix.select import parse
from harness.plan import suites
from harness.plan.certificate import certify
from harness.plan.decided import DecidingJudge
from harness.plan.selection import DEFAULT_SUITE
from harness.plan.unreached import unreached

if TYPE_CHECKING:
    import argparse
    from collections import Counter
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from harness.matrix.covering.verify import Count
    from harness.matrix.schema import Suite
    from harness.plan.certificate import Certificate

_NAMED = 20  # uncovered combinations that are printed for each block


def show_coverage(args: argparse.Namespace) -> int:
    """Print the certificate, and write a PICT file if asked; return the exit code."""
    if args.kernels is not None:
        return show_kernels(args)
    config, machine = load(find(args.config)), machine_of(args)
    name = args.suite or DEFAULT_SUITE
    suite = expand.suite_of(config, name)
    numbers = _numbers(args, name, suite)
    if args.pict is not None:
        (number,) = numbers
        title = f"# block {number} of suite {name} on {machine.platform.name}\n"
        text = suites.pict_of(suite.blocks[number - 1], config.defaults, machine)
        _write(args.pict, title + text)
    judge = DecidingJudge(machine)
    cases = [c for c in suites.cases(config, name, machine) if judge.refused(c) is None]
    print(f"suite {name} on {machine.platform.name}: {len(cases):,} case(s) can run")
    certificates = {
        n: certify(suite.blocks[n - 1], config.defaults, machine, cases) for n in numbers
    }
    for number, certificate in certificates.items():
        print("\n".join(_lines(number, certificate)))
    for axis, names in unreached(cases).items():
        print(f"no case has {axis}: {', '.join(names)}")
    return _end(certificates.values(), has_cases=bool(cases))


def _write(path: Path, text: str) -> None:
    """Write a file. Raises UsageError if it cannot be written."""
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {reason_of(error)}") from error


def _end(certificates: Collection[Certificate], *, has_cases: bool) -> ExitCode:
    """Print the verdict and return the exit code."""
    if not has_cases:
        print("nothing can run")
        return ExitCode.NOTHING_SELECTED
    count = sum(len(certificate.uncovered) for certificate in certificates)
    print(f"incomplete: {count:,} uncovered" if count else "complete")
    return ExitCode.FAILED if count else ExitCode.PASSED


def _numbers(args: argparse.Namespace, name: str, suite: Suite) -> list[int]:
    """Return the numbers of the blocks to certify. Raises UsageError for one that is not there."""
    numbers = list(range(1, len(suite.blocks) + 1))
    if args.block is not None:
        if args.block not in numbers:
            raise UsageError(f"--block must be 1 to {len(numbers)} in {name}, not {args.block}")
        return [args.block]
    if args.pict is None:
        return numbers
    parts = [n for n in numbers if not parse(suite.blocks[n - 1].select).is_full]
    if len(parts) != 1:
        text = f"--pict writes one block, and {name} has {len(parts)} that select some points"
        raise UsageError(f"{text}; add --block N")
    return parts


def _lines(number: int, certificate: Certificate) -> Iterator[str]:
    """Yield the lines on one block."""
    space = certificate.space
    axes = ", ".join(f"{key} {len(values)}" for key, values in space.factors.items())
    yield f"block {number}: {certificate.select}: {axes or 'one point'}"
    refused = f"; refused: {_codes(certificate.refused)}" if certificate.refused else ""
    yield f"  {certificate.in_suite:,} of {space.size:,} point(s) are cases{refused}"
    for title, count in certificate.counts:
        yield from _count_lines(title, count, list(space.factors))
    uncovered = certificate.uncovered
    yield from (f"  uncovered: {text}" for text in uncovered[:_NAMED])
    if len(uncovered) > _NAMED:
        yield f"  ... and {len(uncovered) - _NAMED:,} more"


def _count_lines(title: str, count: Count, names: list[str]) -> Iterator[str]:
    """Yield the lines on the combinations of one strength."""
    yield f"  {title}: {count.covered:,} of {count.feasible:,} feasible combinations are covered"
    axes = " x ".join(names[factor] for factor in count.largest_of)
    yield f"    at least {count.bound:,} cases are necessary; {axes} alone needs {count.largest:,}"
    if count.infeasible:
        yield f"    {count.infeasible.total():,} are impossible: {_codes(count.infeasible)}"


def _codes(codes: Counter[str]) -> str:
    """Return reason codes with their counts, the most frequent first."""
    ranked = sorted(codes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {code}" for code, count in ranked)
