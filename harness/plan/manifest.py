"""Describe a run for `run.json`: its options, the machine, and the versions."""

from __future__ import annotations

import platform as python_platform
import socket
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.matrix.case_packages import packages_of
from harness.record.run_info import RefusedCase, RunInfo, RunMachine, RunOptions
from moe import packages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.plan.machine import Machine
    from harness.plan.plan import Plan
    from harness.plan.refused import Refused
    from harness.plan.selection import Selection
    from harness.record.run_info import ShardOf
    from moe.packages import Package

PACKAGES = ("moe-harness", "torch", "triton", "numpy", "pydantic", "flashinfer-python")


def describe(
    argv: list[str],
    selection: Selection,
    plan: Plan,
    *,
    save_tensors: bool = False,
    seed: int | None = None,
    shard: ShardOf | None = None,
    time_budget: float | None = None,
    left_out: tuple[str, ...] = (),
) -> RunInfo:
    """Return what is needed to report, repeat and resume the run."""
    return RunInfo(
        suite=selection.suite,
        time=time.time(),
        argv=tuple(argv),
        options=RunOptions(
            time_limit=selection.time_limit,
            retries=selection.retries,
            plain_call=selection.plain_call,
            undeclared=selection.undeclared,
            save_tensors=save_tensors,
            seed=seed,
            time_budget=time_budget,
            trace=selection.trace,
        ),
        platform=_machine(plan.machine),
        versions=versions(packages_of(plan.cases)),
        git=git_revision(Path.cwd()),
        cases=tuple(plan.cases.ids()),
        refused=refused_cases(plan),
        shard=shard,
        left_out=left_out,
    )


def refused_cases(plan: Plan) -> tuple[RefusedCase, ...]:
    """Return what the plan refused, as it is recorded."""
    return tuple(recorded(plan.refused))


def recorded(refused: Refused) -> Iterator[RefusedCase]:
    """Yield refusals as they are recorded."""
    pairs = zip(refused.cases.ids(), refused.reasons, strict=True)
    return (RefusedCase(case=i, code=r.code, text=r.text) for i, r in pairs)


def _machine(machine: Machine) -> RunMachine:
    return RunMachine(
        name=machine.platform.name,
        features=tuple(sorted(machine.platform.features)),
        devices=machine.devices,
        device_bytes=machine.device_bytes,
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        host=socket.gethostname(),
    )


def versions(more: Iterable[Package | str] = ()) -> dict[str, str]:
    """Return the installed versions of what a result depends on; absent packages are left out.

    more: packages that members need.
    """
    installed = {"python": python_platform.python_version()}
    return installed | packages.versions((*PACKAGES, *dict.fromkeys(more)))


def git_revision(folder: Path) -> str | None:
    """Return the commit, with `-dirty` if files differ from it; None outside of a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def folder_for(root: Path, name: str) -> Path:
    """Return an unused folder named by the time, such as `runs/20261121T230216Z-smoke`."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path, count = root / f"{stamp}-{name}", 1
    while path.exists():
        count += 1
        path = root / f"{stamp}-{name}-{count}"
    return path
