"""What `run.json` says of a run: what was asked, of which machine, with which versions."""

from __future__ import annotations

import platform as python_platform
import socket
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record.run_info import RefusedCase, RunInfo, RunMachine, RunOptions

if TYPE_CHECKING:
    from harness.plan.machine import Machine
    from harness.plan.plan import Plan
    from harness.plan.selection import Selection

PACKAGES = ("moe-harness", "torch", "triton", "numpy", "pydantic", "flashinfer-python")


def describe(
    argv: list[str],
    chosen: Selection,
    plan: Plan,
    *,
    save_tensors: bool = False,
    seed: int | None = None,
) -> RunInfo:
    """Everything that the folder needs to be reported, repeated and resumed."""
    return RunInfo(
        suite=chosen.suite,
        time=time.time(),
        argv=tuple(argv),
        options=RunOptions(
            time_limit=chosen.time_limit,
            retries=chosen.retries,
            save_tensors=save_tensors,
            seed=seed,
        ),
        platform=_machine(plan.machine),
        versions=versions(),
        git=git_revision(Path.cwd()),
        cases=tuple(case.id for case in plan.cases),
        refused=refused_cases(plan),
    )


def refused_cases(plan: Plan) -> tuple[RefusedCase, ...]:
    """Return what the plan refused, as it is recorded."""
    return tuple(
        RefusedCase(case=r.case.id, code=r.reason.code, text=r.reason.text) for r in plan.refused
    )


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


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on; what is absent is left out."""
    found = {"python": python_platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_revision(where: Path) -> str | None:
    """The commit, with `-dirty` where files differ from it; None outside of a repository."""
    command = ["git", "-C", str(where), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def folder_for(root: Path, name: str) -> Path:
    """A folder name by time that is not taken: `runs/20261121T230216Z-smoke`."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path, count = root / f"{stamp}-{name}", 1
    while path.exists():
        count += 1
        path = root / f"{stamp}-{name}-{count}"
    return path
