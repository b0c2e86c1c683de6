"""Memory in use on the visible devices, and waiting for it to be released."""

from __future__ import annotations

import ctypes
import importlib.util
import time

import pytest

from harness.engine import device_memory


def test_memory_of_dead_ranks_is_waited_for_within_a_limit(monkeypatch):
    readings = iter([[9 << 30], [9 << 30], [1 << 30]])
    monkeypatch.setattr(device_memory, "used", lambda: next(readings))
    assert 0.03 < device_memory.wait_until_free([1 << 30], 60.0) < 60.0
    monkeypatch.setattr(device_memory, "used", lambda: [9 << 30])
    start = time.monotonic()
    assert device_memory.wait_until_free([1 << 30], 0.1) >= 0.1
    assert time.monotonic() - start < 60.0  # the first limit
    assert device_memory.wait_until_free([], 60.0) < 60.0


def test_only_the_gangs_own_devices_are_waited_for(monkeypatch):
    monkeypatch.setattr(device_memory, "used", lambda: [9 << 30, 1 << 30])
    assert device_memory.wait_until_free([1 << 30] * 2, 5.0, devices=[1]) < 0.01
    assert device_memory.wait_until_free([1 << 30] * 2, 0.1, devices=[0]) >= 0.1


def test_devices_named_by_uuid_are_all_waited_for(monkeypatch):
    """Torch's numbers are not those of the driver then."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5ebe9f43,GPU-a4ea9c2b")
    monkeypatch.setattr(device_memory, "used", lambda: [0, 60 << 30])
    assert device_memory.wait_until_free([0, 0], 0.1, devices=[0]) >= 0.1


def test_on_a_shared_device_memory_counts_as_free_once_its_use_falls_no_longer(monkeypatch):
    falling = iter([9 << 30, 7 << 30, 5 << 30])
    last = [4 << 30]
    monkeypatch.setattr(device_memory, "used", lambda: [next(falling, last[0])])
    monkeypatch.setattr(device_memory, "_STEADY", 0.1)
    waited = device_memory.wait_until_free([1 << 30], 5.0, devices=[0], shared=True)
    assert 0.13 < waited < 2.0, "three falls, then no more"


class ThreeDevices:
    """NVML with 1, 2 and 3 GiB in use; the second can be made unreadable."""

    broken = False

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 3

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = index + 1
        return int(self.broken and index == 1)

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory._obj.used = handle.value << 30
        return 0


@pytest.mark.parametrize(
    ("visible", "used"),
    [
        (None, [1, 2, 3]),
        ("2,0", [3, 1]),
        ("1", [2]),
        ("GPU-8f6d", [1, 2, 3]),  # listed by UUID
        ("7", [1, 2, 3]),
    ],
)
def test_memory_is_read_of_the_visible_devices(monkeypatch, visible, used):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: ThreeDevices())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert fresh_module().used() == [gigabytes << 30 for gigabytes in used]


def test_a_device_that_cannot_be_read_is_left_out(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: ThreeDevices())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ThreeDevices, "broken", True)
    assert fresh_module().used() == [1 << 30, 3 << 30]


def fresh_module():
    """The module once more, since it keeps the library that it has loaded."""
    found = importlib.util.spec_from_file_location("fresh_memory", device_memory.__file__)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
