"""Run `coverage --kernels`: what a chip's cases can launch, and a run did not. No torch.

The cases are those that can run on the chip; a process of its own records their launches on tensors
without values, as for `compile`. Tiles are part of a binary, but those of interpreted kernels are
not a chip's: a run on a CPU is compared by the choices alone, see `moe.kernels.specialisation`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.commands import compile_kernels
from harness.commands.options import COMPILED
from harness.errors import ExitCode, NothingSelected, UsageError
from harness.plan import machine
from harness.record.result import Verdict
from harness.record.run_folder import RunFolder
from harness.report.tables import view
from moe.platforms import PLATFORMS, platform

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, kw_only=True)
class KernelCoverage:
    """Hold the lines that a chip can launch, and those of them that a run launched.

    by_choice: whether sizes of tiles were left out of both, as the run was on another platform.
    """

    possible: frozenset[str]
    launched: frozenset[str]
    by_choice: bool

    @property
    def missing(self) -> list[str]:
        """Return what can be launched and was not, sorted by kernel."""
        return sorted(self.possible - self.launched)


def show_kernels(args: argparse.Namespace) -> int:
    """Print which specialisations the run lacks; return 1 if there are any."""
    folder = RunFolder.open(args.kernels)
    name = args.platform or folder.info.platform.name
    if platform(name).triton_target is None:
        raise UsageError(
            f"--kernels compares a run with a chip; name one by --platform, not {name}"
        )
    suites = [args.suite] if args.suite else []
    ids = compile_kernels.ids_for(compile_kernels.points_of(suites, args.config, name), name)
    if not ids:
        raise NothingSelected(f"no case launches a Triton kernel of this project on {name}")
    launched, cases = launched_by(folder)
    possible, failures = _possible(name, ids)
    shown = compared(possible, launched, by_choice=folder.info.platform.name != name)
    print(f"{len(ids):,} case(s) of {name} that differ in what they launch; {cases:,} of the run")
    print("\n".join([*lines_of(shown), *(f"FAILED {text}" for text in failures)]))
    return ExitCode.FAILED if shown.missing or failures else ExitCode.PASSED


def launched_by(folder: RunFolder) -> tuple[list[str], int]:
    """Return the lines of all cases of a run that passed, and how many cases launched something."""
    results = [r for r in view(folder).results if r.verdict is Verdict.PASSED and r.kernels]
    return list(dict.fromkeys(line for r in results for line in r.kernels)), len(results)


def _possible(name: str, ids: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines that a platform's cases can launch, and cases that cannot be recorded."""
    lines: list[str] = []
    failures: list[str] = []
    arch, jobs = PLATFORMS.row(name).arch, machine.usable_cores()
    for event in compile_kernels.worker({arch: ids}, COMPILED, jobs, "list"):
        failures += [event["failed"]] if "failed" in event else []
        lines += event.get("specialisations", [])
    return lines, failures


def compared(
    possible: Iterable[str], launched: Iterable[str], *, by_choice: bool
) -> KernelCoverage:
    """Return what is covered. by_choice: compare what is before the brackets."""
    read = choices_of if by_choice else str
    return KernelCoverage(
        possible=frozenset(map(read, possible)),
        launched=frozenset(map(read, launched)),
        by_choice=by_choice,
    )


def choices_of(line: str) -> str:
    """Return a line without its sizes."""
    return line.partition(" [")[0]


def lines_of(shown: KernelCoverage) -> Sequence[str]:
    """Return the table by kernel, what is missing, and the verdict."""
    counts: dict[str, Counter[bool]] = defaultdict(Counter)
    for line in shown.possible:
        counts[line.partition("(")[0]][line in shown.launched] += 1
    noun = "without sizes of tiles" if shown.by_choice else "with sizes of tiles"
    head = f"{'kernel':<24}{'can be launched':>16}{'launched':>10}    ({noun})"
    table = [f"{k:<24}{n.total():>16}{n[True]:>10}" for k, n in sorted(counts.items())]
    missing = [f"not launched: {line}" for line in shown.missing]
    verdict = f"incomplete: {len(missing):,} were not launched" if missing else "complete"
    return [head, *table, *missing, verdict]
