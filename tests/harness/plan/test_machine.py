"""What a machine has, by its own files, and what another chip's is taken to be."""

import dataclasses
import os
from pathlib import Path

import pytest

from harness.plan import machine
from moe.errors import UnknownMemberError
from moe.platforms import detect
from moe.platforms.detect import Device

HOPPER = Device(name="H200", arch="sm90", memory_bytes=141 * 10**9, uuid="GPU-a")
TOTAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def gpus(monkeypatch):
    def gpus(*found, torch="2.13.0+cu130"):
        monkeypatch.setattr(detect, "nvidia_devices", lambda environ: found)
        monkeypatch.setattr(machine, "version", lambda package: torch)

    return gpus


def test_a_gpu_machine(gpus):
    gpus(HOPPER, HOPPER)
    here = machine.detect()
    assert (here.platform.name, here.devices) == ("cuda_sm90", 2)
    assert here.device_bytes == 141 * 10**9
    assert not here.planned


def test_the_smallest_gpu_counts_and_an_unread_size_is_the_rows(gpus):
    gpus(HOPPER, Device(name="H100", arch="sm90", memory_bytes=0))
    assert machine.detect().device_bytes == 80 * 10**9


def test_gpus_that_torch_cannot_use_are_left_out(gpus):
    gpus(HOPPER, torch="2.13.0+cpu")
    here = machine.detect()
    assert (here.platform.name, here.devices, here.device_bytes) == ("cpu", 0, 0)


def test_this_machine_without_torch():
    here = machine.detect()
    assert 1 <= here.cores <= len(os.sched_getaffinity(0))
    assert 0 < here.memory_bytes <= TOTAL


def test_a_planned_machine_says_so():
    there = machine.planned_for("rocm_gfx950", devices=8)
    assert (there.devices, there.device_bytes, there.planned) == (8, 288 * 10**9, True)
    assert machine.planned_for("cpu", devices=8).devices == 0


def test_two_ranks_run_on_each_core_at_once_and_a_few_on_each_gpu():
    assert machine.planned_for("cpu").slots == 4  # two cores
    two_gpus = machine.planned_for("cuda_sm90")
    assert two_gpus.slots == 4  # 16 cores
    assert dataclasses.replace(two_gpus, cores=32).slots == 8
    assert dataclasses.replace(two_gpus, cores=128).slots == 8  # they share the GPU's memory
    assert machine.planned_for("cuda_sm90", devices=8).slots == 1


def test_an_unknown_platform_names_those_there_are():
    with pytest.raises(UnknownMemberError, match=r"'cuda_sm9', did you mean 'cuda_sm90'\?"):
        machine.planned_for("cuda_sm9")


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", None), ("150000 100000", 1), ("50000 100000", 1), ("", None)]
)
def test_a_cgroup_may_grant_fewer_cores(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    every = len(os.sched_getaffinity(0))
    assert machine.usable_cores(tmp_path) == (cores or every)


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_cgroup_may_grant_less_memory(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("1000000\n")
    assert machine.usable_memory(tmp_path) == 1000000


def test_the_limit_of_an_outer_group_counts(tmp_path, monkeypatch):
    own = tmp_path / "a/b"
    own.mkdir(parents=True)
    (own / "memory.max").write_text("max\n")
    (tmp_path / "a/memory.max").write_text("5000000\n")
    real = Path.read_text
    lines = "0::/a/b\n"
    monkeypatch.setattr(
        Path, "read_text", lambda p, **k: lines if str(p) == "/proc/self/cgroup" else real(p, **k)
    )
    assert machine.usable_memory(tmp_path) == 5000000


def test_no_limit_is_all_of_the_machine(tmp_path):
    assert machine.usable_memory(tmp_path) == TOTAL
