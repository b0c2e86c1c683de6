"""Chips are found by their drivers' own files and libraries, without torch."""

import ctypes
import os
import subprocess
import sys

import pytest

from harness.plan import machine as plan_machine
from moe import platforms
from moe.platforms import PlatformSpec, detect
from moe.platforms.detect import Device, devices, platform_of, visible
from moe.registry import Registry
from moe.spec import Platform

GPUS = tuple(
    Device(name="H200", arch="sm90", memory_bytes=10**9, uuid=f"GPU-{i}{i}") for i in range(4)
)


@pytest.mark.parametrize(
    ("arch", "name", "features"),
    [
        ("sm89", "cuda_sm89", {"cuda", "sm89", "triton"}),
        ("gfx1100", "rocm_gfx1100", {"rocm", "gfx1100", "triton"}),
    ],
)
def test_a_chip_without_a_row_is_taken_for_what_is_sure(arch, name, features):
    chip = platform_of([Device(name="?", arch=arch, memory_bytes=1)])
    assert (chip.name, chip.device, chip.features) == (name, "cuda", features)


@pytest.mark.parametrize(
    ("selection", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("0,9,1", [0]),  # what comes after an impossible one does not count
        ("0,x,1", [0]),
        ("1,1", [1]),
        ("GPU-22,GPU-00", [2, 0]),
        ("GPU-2", [2]),  # the start of a UUID is enough while it is unique
        ("GPU-", []),
    ],
)
def test_visible_devices_are_read_as_the_runtimes_do(selection, indices):
    assert visible(GPUS, selection) == tuple(GPUS[i] for i in indices)


@pytest.fixture
def machine(monkeypatch):
    def machine(nvml=(), proc=(), kfd=()):
        monkeypatch.setattr(detect, "nvml_devices", lambda: tuple(nvml))
        monkeypatch.setattr(detect, "proc_devices", lambda: tuple(proc))
        monkeypatch.setattr(detect, "kfd_devices", lambda: tuple(kfd))

    return machine


def test_each_vendors_variable_selects(machine):
    machine(nvml=GPUS)
    assert devices({}) == GPUS
    assert devices({"CUDA_VISIBLE_DEVICES": "3"}) == (GPUS[3],)
    assert devices({"HIP_VISIBLE_DEVICES": "3"}) == GPUS
    machine(kfd=GPUS)
    assert devices({"HIP_VISIBLE_DEVICES": "1,2"}) == GPUS[1:3]
    assert devices({"CUDA_VISIBLE_DEVICES": "1"}) == (GPUS[1],)
    both = {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": ""}
    assert devices(both) == (GPUS[3],)
    machine(proc=GPUS[:1])
    assert devices({}) == GPUS[:1]
    machine()
    assert devices({}) == ()


class FakeNvml:
    """NVML's C functions, filling in what they are pointed at."""

    def __init__(self, count, init=0):
        self._count, self._init, self.ended = count, init, False

    def nvmlInit_v2(self):
        return self._init

    def nvmlShutdown(self):
        self.ended = True

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = self._count

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = index + 1

    def nvmlDeviceGetName(self, handle, name, size):
        name.value = b"NVIDIA H200"
        assert size == ctypes.sizeof(name)

    def nvmlDeviceGetUUID(self, handle, uuid, size):
        uuid.value = f"GPU-{handle.value}".encode()

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory._obj.total = 150 * 10**9

    def nvmlDeviceGetCudaComputeCapability(self, handle, major, minor):
        major._obj.value, minor._obj.value = 9, 0


def test_nvml_tells_name_arch_memory_and_uuid():
    nvml = FakeNvml(2)
    assert detect.nvml_devices(nvml) == tuple(
        Device(name="NVIDIA H200", arch="sm90", memory_bytes=150 * 10**9, uuid=f"GPU-{i}")
        for i in (1, 2)
    )
    assert nvml.ended


def test_an_nvml_without_a_driver_has_no_devices(monkeypatch):
    assert detect.nvml_devices(FakeNvml(2, init=9)) == ()
    monkeypatch.setattr(detect, "_NVML", "libno-such-library.so.1")
    assert detect.nvml_devices() == ()


def test_the_drivers_files_tell_the_name(tmp_path):
    for bus, model in (("0000:01", "NVIDIA H100 80GB HBM3"), ("0000:02", "NVIDIA Unheard")):
        (tmp_path / bus).mkdir()
        text = f"Model: \t\t {model}\nIRQ:   1\nGPU UUID: \t GPU-{bus[-2:]}\nBus: {bus}:0\n"
        (tmp_path / bus / "information").write_text(text)
    first, second = detect.proc_devices(tmp_path)
    assert (first.name, first.arch, first.uuid) == ("NVIDIA H100 80GB HBM3", "sm90", "GPU-01")
    assert (second.arch, second.memory_bytes) == ("unknown", 0)
    assert detect.proc_devices(tmp_path / "absent") == ()


def test_sysfs_tells_amds_chips(tmp_path):
    def node(number, **facts):
        path = tmp_path / str(number)
        (path / "mem_banks/0").mkdir(parents=True)
        (path / "properties").write_text("".join(f"{k} {v}\n" for k, v in facts.items()))
        (path / "mem_banks/0/properties").write_text("heap_type 1\nsize_in_bytes 206141652992\n")
        (path / "name").write_text("aqua_vanjaram\n")

    node(0, cpu_cores_count=96, gfx_target_version=0)
    node(10, gfx_target_version=90500, unique_id=255)
    node(2, gfx_target_version=90402, unique_id=10)
    (tmp_path / "3").mkdir()  # a container may not read its properties
    first, second = detect.kfd_devices(tmp_path)
    assert (first.arch, second.arch) == ("gfx942", "gfx950")
    assert first.memory_bytes == 206141652992
    assert (first.name, first.uuid) == ("aqua_vanjaram", "GPU-000000000000000a")
    assert detect.kfd_devices(tmp_path / "absent") == ()


@pytest.fixture
def table(monkeypatch):
    """Has the detection ask these rows alone."""

    def table(*rows):
        registry = Registry("platforms", rows)
        registry._rows = {row.name: row for row in rows}
        for module in (detect, plan_machine, platforms):
            monkeypatch.setattr(module, "PLATFORMS", registry)

    return table


def row(name, device, detector="detected"):
    chip = Platform(name=name, device=device, features=frozenset({name}))
    globals()[f"make_{name}"] = lambda: chip
    target = f"{__name__}:make_{name}"
    return PlatformSpec(
        name=name, target=target, arch=name, detector=f"{__name__}:{detector}", device_bytes=5
    )


CALLS = []


def detected(environ):
    CALLS.append("detected")
    return tuple(Device(name=a, arch=a, memory_bytes=0) for a in environ.get("SEEN", "").split())


def other(environ):
    CALLS.append("other")
    return (Device(name="late", arch="late", memory_bytes=7),)


def test_the_rows_detectors_are_asked_in_order_and_once(table):
    CALLS.clear()
    table(row("first", "cuda"), row("second", "cuda"), row("late", "cuda", "other"))
    assert [d.arch for d in devices({"SEEN": "second second"})] == ["second", "second"]
    assert CALLS == ["detected"]
    assert [d.arch for d in devices({})] == ["late"]
    assert CALLS == ["detected", "detected", "other"]
    assert platform_of(devices({})).name == "late"


def test_detectors_of_other_kinds_are_not_asked(table):
    CALLS.clear()
    table(row("gpu", "cuda"), row("late", "cpu", "other"))
    assert devices({"SEEN": "gpu"}, kinds=("cpu",))[0].arch == "late"
    assert CALLS == ["other"]
    assert devices({}) == ()


@pytest.mark.parametrize(("torch", "name", "count"), [("2+cu1", "gpu", 2), ("2+cpu", "late", 0)])
def test_a_torch_without_gpus_leaves_the_cpus_of_the_table(table, monkeypatch, torch, name, count):
    monkeypatch.setattr(plan_machine, "version", lambda package: torch)
    monkeypatch.setattr(os, "environ", {"SEEN": "gpu gpu"})
    monkeypatch.setattr(detect.devices, "__defaults__", (os.environ, detect.GPUS))
    table(row("gpu", "cuda"), row("late", "cpu", "other"))
    here = plan_machine.detect()
    assert (here.platform.name, here.devices, here.device_bytes) == (name, count, 5 * bool(count))


def test_a_product_name_is_looked_up_in_the_rows(table):
    table(PlatformSpec(name="x", target="t:t", arch="sm999", products=("H9000",)))
    assert [detect._arch_of(f"NVIDIA {word} PCIe") for word in ("H9000", "H900")] == [
        "sm999",
        "unknown",
    ]


def test_detection_imports_no_torch():
    code = (
        "import sys\n"
        "from moe.platforms.detect import devices, platform_of\n"
        "platform_of(devices())\n"
        "print(sorted({'torch', 'triton', 'numpy', 'moe.types'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
