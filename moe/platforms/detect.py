"""Which devices this machine has and which platform that makes it, found without torch.

The rows of `moe.platforms` name the functions that detect them; two of those are defined below.
NVIDIA: NVML through ctypes, else the driver's files in /proc. AMD: the kfd topology in sysfs.
`CUDA_VISIBLE_DEVICES`, `HIP_VISIBLE_DEVICES` and `ROCR_VISIBLE_DEVICES` are respected as the
vendors' runtimes read them: indices or UUIDs, up to the first one that cannot be.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe.platforms import PLATFORMS, platform
from moe.platforms.base import Device as Device
from moe.spec import Platform, resolve

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

_NVML = "libnvidia-ml.so.1"
_PROC = Path("/proc/driver/nvidia/gpus")
_KFD = Path("/sys/class/kfd/kfd/topology/nodes")
GPUS = ("cuda",)  # torch device types: those of platforms with GPUs


def devices(
    environ: Mapping[str, str] = os.environ, kinds: Collection[str] = GPUS
) -> tuple[Device, ...]:
    """Ask the rows in their order: return what the first detector that sees any device reports.

    kinds: torch device types; rows of other types are not asked.
    """
    for detector in _detectors(kinds):
        reported: tuple[Device, ...] = resolve(detector)(environ)
        if reported:
            return reported
    return ()


def _detectors(kinds: Collection[str]) -> Iterable[str]:
    """Return each detector of the rows whose devices are of these types, once."""
    rows = (row for row in PLATFORMS if row.detector and platform(row.name).device in kinds)
    return dict.fromkeys(row.detector for row in rows if row.detector)


def nvidia_devices(environ: Mapping[str, str]) -> tuple[Device, ...]:
    """Return NVIDIA's GPUs that `CUDA_VISIBLE_DEVICES` leaves."""
    return visible(nvml_devices() or proc_devices(), environ.get("CUDA_VISIBLE_DEVICES"))


def amd_devices(environ: Mapping[str, str]) -> tuple[Device, ...]:
    """Return AMD's GPUs. HIP counts within what ROCr left; without its variable it reads CUDA's."""
    amd = visible(kfd_devices(), environ.get("ROCR_VISIBLE_DEVICES"))
    return visible(amd, environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES")))


def platform_of(found: Sequence[Device]) -> Platform:
    """The platform of these devices (the first decides); `cpu` where there is none.

    A chip without a row still runs what needs only `triton` and its vendor's feature.
    """
    arch = found[0].arch if found else "cpu"
    for row in PLATFORMS:
        if row.arch == arch:
            return platform(row.name)
    vendor = "rocm" if arch.startswith("gfx") else "cuda"
    features = frozenset({vendor, arch, "triton"})
    return Platform(name=f"{vendor}_{arch}", device="cuda", features=features)


def visible(found: Sequence[Device], selection: str | None) -> tuple[Device, ...]:
    """Those of `found` that a `*_VISIBLE_DEVICES` value leaves; None means all."""
    if selection is None:
        return tuple(found)
    chosen: list[Device] = []
    for token in (part.strip() for part in selection.split(",")):
        device = _chosen(found, token)
        if device is None or (device in chosen and device.uuid):
            break
        chosen.append(device)
    return tuple(chosen)


def _chosen(found: Sequence[Device], token: str) -> Device | None:
    if token.isdecimal():
        return found[int(token)] if int(token) < len(found) else None
    if not token.startswith("GPU-"):
        return None
    matches = [device for device in found if device.uuid.startswith(token)]
    return matches[0] if len(matches) == 1 else None


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def nvml_devices(library: Any = None) -> tuple[Device, ...]:
    """NVIDIA GPUs by NVML; none where the library is absent or reports a fault."""
    try:
        nvml = library or ctypes.CDLL(_NVML)
    except OSError:
        return ()
    if nvml.nvmlInit_v2() != 0:
        return ()
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    found = tuple(_nvml_device(nvml, index) for index in range(count.value))
    nvml.nvmlShutdown()
    return found


def _nvml_device(nvml: Any, index: int) -> Device:
    handle, memory = ctypes.c_void_p(), _Memory()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name, uuid = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
    nvml.nvmlDeviceGetName(handle, name, 96)
    nvml.nvmlDeviceGetUUID(handle, uuid, 96)
    nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    return Device(
        name=name.value.decode(),
        arch=f"sm{major.value}{minor.value}",
        memory_bytes=memory.total,
        uuid=uuid.value.decode(),
    )


def proc_devices(root: Path = _PROC) -> tuple[Device, ...]:
    """NVIDIA GPUs by the driver's files, which tell neither memory nor compute capability."""
    found = []
    for path in sorted(root.glob("*/information")):
        pairs = (line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, value in pairs}
        name = facts.get("Model", "NVIDIA GPU")
        uuid = facts.get("GPU UUID", "")
        found.append(Device(name=name, arch=_arch_of(name), memory_bytes=0, uuid=uuid))
    return tuple(found)


def _arch_of(name: str) -> str:
    """Return the arch of the first row that names a word of this product name."""
    words = set(name.split())
    return next((row.arch for row in PLATFORMS if words & set(row.products)), "unknown")


def kfd_devices(root: Path = _KFD) -> tuple[Device, ...]:
    """AMD GPUs by sysfs; a node with no gfx version is a CPU."""
    nodes = sorted((path for path in root.glob("*") if path.name.isdecimal()), key=_number)
    found = []
    for node in nodes:
        facts = _properties(node / "properties")
        version = facts.get("gfx_target_version", 0)
        if version:
            found.append(_kfd_device(node, version, facts.get("unique_id", 0)))
    return tuple(found)


def _kfd_device(node: Path, version: int, unique_id: int) -> Device:
    major, minor, step = version // 10000, version // 100 % 100, version % 100
    banks = (_properties(path) for path in (node / "mem_banks").glob("*/properties"))
    name_file = node / "name"
    return Device(
        name=name_file.read_text().strip() if name_file.exists() else "AMD GPU",
        arch=f"gfx{major}{minor:x}{step:x}",
        memory_bytes=sum(bank.get("size_in_bytes", 0) for bank in banks),
        uuid=f"GPU-{unique_id:016x}" if unique_id else "",
    )


def _number(path: Path) -> int:
    return int(path.name)


def _properties(path: Path) -> dict[str, int]:
    """A kfd properties file; nothing where a container may not read it."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
