"""Detect this machine's devices and its platform. Torch-free.

Each row of `moe.platforms` names the function that detects its devices; this module defines those
of NVIDIA and AMD. NVIDIA: NVML by ctypes, otherwise the driver's files in /proc. AMD: the kfd
topology in sysfs. `CUDA_VISIBLE_DEVICES`, `HIP_VISIBLE_DEVICES` and `ROCR_VISIBLE_DEVICES` are read
as the vendors' runtimes read them: indices or UUIDs, up to the first invalid one.
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
GPUS = ("cuda",)  # torch device types of platforms with GPUs (ROCm's is `cuda`, too)


def devices(
    environ: Mapping[str, str] = os.environ, kinds: Collection[str] = GPUS
) -> tuple[Device, ...]:
    """Return the devices of the first detector, in the order of the rows, that reports any.

    kinds: torch device types; detectors of rows of other types are not called.
    """
    for detector in _detectors(kinds):
        reported: tuple[Device, ...] = resolve(detector)(environ)
        if reported:
            return reported
    return ()


def _detectors(kinds: Collection[str]) -> Iterable[str]:
    """Return the detectors of the rows of these device types, without duplicates."""
    rows = (row for row in PLATFORMS if row.detector and platform(row.name).device in kinds)
    return dict.fromkeys(row.detector for row in rows if row.detector)


def nvidia_devices(environ: Mapping[str, str]) -> tuple[Device, ...]:
    """Return the NVIDIA GPUs that `CUDA_VISIBLE_DEVICES` selects."""
    return visible(nvml_devices() or proc_devices(), environ.get("CUDA_VISIBLE_DEVICES"))


def amd_devices(environ: Mapping[str, str]) -> tuple[Device, ...]:
    """Return the AMD GPUs that both runtimes select.

    HIP's indices count the devices that ROCr selects. HIP reads `CUDA_VISIBLE_DEVICES` if its own
    variable is not set.
    """
    amd = visible(kfd_devices(), environ.get("ROCR_VISIBLE_DEVICES"))
    return visible(amd, environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES")))


def platform_of(devices: Sequence[Device]) -> Platform:
    """Return the platform of the first device; `cpu` if there is none.

    A chip without a row has `triton`, its vendor and its architecture as features, and so runs the
    members that need nothing else.
    """
    arch = devices[0].arch if devices else "cpu"
    for row in PLATFORMS:
        if row.arch == arch:
            return platform(row.name)
    vendor = "rocm" if arch.startswith("gfx") else "cuda"
    features = frozenset({vendor, arch, "triton"})
    return Platform(name=f"{vendor}_{arch}", device="cuda", features=features)


def visible(devices: Sequence[Device], selection: str | None) -> tuple[Device, ...]:
    """Return the devices that the value of a `*_VISIBLE_DEVICES` selects; None selects all."""
    if selection is None:
        return tuple(devices)
    selected: list[Device] = []
    for token in (part.strip() for part in selection.split(",")):
        device = _device_of(devices, token)
        if device is None or (device in selected and device.uuid):
            break
        selected.append(device)
    return tuple(selected)


def _device_of(devices: Sequence[Device], token: str) -> Device | None:
    """Return the device with this index, or with a UUID that starts so; None if not exactly one."""
    if token.isdecimal():
        return devices[int(token)] if int(token) < len(devices) else None
    if not token.startswith("GPU-"):
        return None
    matches = [device for device in devices if device.uuid.startswith(token)]
    return matches[0] if len(matches) == 1 else None


class _Memory(ctypes.Structure):
    """Declare NVML's nvmlMemory_t, in bytes."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def nvml_devices(library: Any = None) -> tuple[Device, ...]:
    """Return NVIDIA's GPUs by NVML; () if the library is missing or does not initialise."""
    try:
        nvml = library or ctypes.CDLL(_NVML)
    except OSError:
        return ()
    if nvml.nvmlInit_v2() != 0:
        return ()
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    gpus = tuple(_nvml_device(nvml, index) for index in range(count.value))
    nvml.nvmlShutdown()
    return gpus


def _nvml_device(nvml: Any, index: int) -> Device:
    """Read the device with this index by NVML."""
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
    """Return NVIDIA's GPUs by the driver's files, which have no memory size or capability."""
    gpus = []
    for path in sorted(root.glob("*/information")):
        pairs = (line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, value in pairs}
        name = facts.get("Model", "NVIDIA GPU")
        uuid = facts.get("GPU UUID", "")
        gpus.append(Device(name=name, arch=_arch_of(name), memory_bytes=0, uuid=uuid))
    return tuple(gpus)


def _arch_of(name: str) -> str:
    """Return the arch of the first row that lists a word of this product name, or `unknown`."""
    words = set(name.split())
    return next((row.arch for row in PLATFORMS if words & set(row.products)), "unknown")


def kfd_devices(root: Path = _KFD) -> tuple[Device, ...]:
    """Return AMD's GPUs by sysfs; a node without a gfx version is a CPU."""
    nodes = sorted((path for path in root.glob("*") if path.name.isdecimal()), key=_number)
    gpus = []
    for node in nodes:
        facts = _properties(node / "properties")
        version = facts.get("gfx_target_version", 0)
        if version:
            gpus.append(_kfd_device(node, version, facts.get("unique_id", 0)))
    return tuple(gpus)


def _kfd_device(node: Path, version: int, unique_id: int) -> Device:
    """Read the device of a kfd node. version: 90402 stands for gfx942. unique_id: 0 = none."""
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
    """Return the number that a kfd node is named by."""
    return int(path.name)


def _properties(path: Path) -> dict[str, int]:
    """Return the numbers of a kfd properties file; {} if it cannot be read, as in a container."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
