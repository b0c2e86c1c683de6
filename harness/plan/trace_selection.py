"""Select the cases of recorded workloads: `--trace PATH`, a data set of FlashInfer Trace.

`--layouts` and `--quant` go with it; `--case` chooses some of its cases. No torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import NothingSelected, UsageError
from harness.matrix.case import MADE
from harness.matrix.layout_words import parse_layouts
from harness.plan.model_selection import ModelPoints, parse_quants

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from harness.matrix.case import MoETestConfig

LAYOUTS = "tp:1"  # one rank with all experts


def of_trace(args: argparse.Namespace) -> ModelPoints:
    """Return a case for each workload of --trace, layout of --layouts and method of --quant.

    Raises ConfigError for what is wrong in the data set, and UsageError for options that are.
    """
    from harness.matrix.traces.trace_cases import cases_of
    from harness.matrix.traces.trace_folder import read_folder

    path = Path(args.trace)
    folder = read_folder(path)
    layouts = parse_layouts(LAYOUTS if args.layouts is None else args.layouts)
    points = cases_of(folder.workloads, layouts=layouts, quants=parse_quants(args.quant))
    if not points:
        raise NothingSelected(f"{str(path)!r} has no workload of an MoE layer with tokens")
    note = f"{path}: {len(folder.workloads)} workload(s) of MoE layers, "
    note += f"{folder.others} definition(s) of other operations left out; weights are made"
    tokens = max(case.m for case in points)
    return ModelPoints(name=path.resolve().name, points=points, note=note, max_tokens=tokens)


def folder_of(args: argparse.Namespace) -> str | None:
    """Return the absolute path that --trace names, as ranks get it; None without the option."""
    return None if args.trace is None else str(Path(args.trace).absolute())


def check_folder(cases: Iterable[MoETestConfig], folder: str | None) -> None:
    """Raise UsageError for a case of a recorded workload without the folder that has it."""
    recorded = [case for case in cases if case.trace != MADE]
    if not recorded:
        return
    if folder is None:
        raise UsageError(
            f"case {recorded[0].id} is of a recorded workload: name its data set by --trace PATH"
        )
    digests = _digests(folder)
    absent = next((case for case in recorded if case.trace not in digests), None)
    if absent is not None:
        raise UsageError(
            f"case {absent.id} is of a recorded workload that {folder!r} does not have: name the "
            "data set with it by --trace PATH"
        )


def _digests(folder: str) -> frozenset[str]:
    """Return what ids say of the workloads of a data set."""
    from harness.matrix.traces.trace_folder import read_folder

    return frozenset(workload.line.digest for workload in read_folder(Path(folder)).workloads)
