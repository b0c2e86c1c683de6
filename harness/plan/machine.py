"""Describe a machine for a plan: detected without torch, or assumed for a chip."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from moe.platforms import PLATFORMS, platform
from moe.platforms.detect import GPUS, devices, platform_of

if TYPE_CHECKING:
    from moe.spec import Platform

RANKS_PER_DEVICE = 8  # that run at once on a GPU, at most
RANKS_PER_CORE = 2  # that run at once on a CPU: those of one gang wait for each other
_GB = 10**9
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Describe the machine that a plan is for."""

    platform: Platform
    devices: int  # GPUs; 0 without any
    device_bytes: int  # memory of the smallest GPU; 0 without any
    cores: int  # that this process may use
    memory_bytes: int  # main memory that this process may use
    planned: bool = False  # another machine; its packages are assumed to be installed

    @property
    def slots(self) -> int:
        """Return how many ranks may run at once unless told otherwise.

        On a CPU two for each core: with one, cores had nothing to do in a sixth of the time of
        gangs of two ranks, and in a tenth of that of four. On each GPU a few, as one rank seldom
        keeps it busy: most of a case is work for the cores, such as compiling kernels.
        """
        if self.platform.device == "cpu":
            return RANKS_PER_CORE * self.cores
        return max(1, min(RANKS_PER_DEVICE, self.cores // (2 * max(1, self.devices))))


def detect() -> Machine:
    """Return this machine. GPUs count only if the installed torch can use them."""
    detected = devices(kinds=("cpu",) if torch_is_cpu_only() else (*GPUS, "cpu"))
    chip = platform_of(detected)
    gpus = detected if chip.device in GPUS else ()
    row = next((row for row in PLATFORMS if row.name == chip.name), None)
    assumed = row.device_bytes if row else 0
    return Machine(
        platform=chip,
        devices=len(gpus),
        device_bytes=min((device.memory_bytes or assumed for device in gpus), default=0),
        cores=usable_cores(),
        memory_bytes=usable_memory(),
    )


def planned_for(platform_name: str, devices: int = 2) -> Machine:
    """Return a machine with `devices` chips of a platform: the row's memory, 16 cores, 128 GB.

    For `cpu`: no devices, two cores, 16 GB. Raises UnknownMemberError for an unknown name.
    """
    chip = platform(platform_name)
    gpu = chip.device != "cpu"
    return Machine(
        platform=chip,
        devices=devices if gpu else 0,
        device_bytes=PLATFORMS.row(platform_name).device_bytes if gpu else 0,
        cores=16 if gpu else 2,
        memory_bytes=(128 if gpu else 16) * _GB,
        planned=True,
    )


def torch_is_cpu_only() -> bool:
    """Return whether the version of the installed torch (`2.13.0+cpu`) rules out GPUs."""
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def usable_cores(root: Path = _CGROUP) -> int:
    """Return the cores of this process's affinity, or fewer if a cgroup grants less time."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, int(quota) // int(period)))


def usable_memory(root: Path = _CGROUP) -> int:
    """Return the bytes of main memory, or the cgroup's limit (v1 or v2) if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [total]
    for path in (root / "memory.max", root / "memory/memory.limit_in_bytes", *_own_limits(root)):
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return min(limits)


def _own_limits(root: Path) -> list[Path]:
    """Return the cgroup v2 limit files of this process's group and of its parents."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    group = Path(next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), ""))
    return [root / parent / "memory.max" for parent in (group, *group.parents)]
