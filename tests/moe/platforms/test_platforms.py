"""The table of platforms: each row, and rows of other packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe.errors import UnknownMemberError
from moe.platforms import PLATFORMS, detect, platform
from moe.platforms.detect import Device, devices, platform_of
from moe.spec import TritonTarget


@pytest.mark.parametrize("row", list(PLATFORMS), ids=lambda row: row.name)
def test_each_row_is_what_it_says(row):
    chip = platform(row.name)
    assert chip.name == row.name
    assert chip.device in ("cpu", *detect.GPUS)
    assert row.arch in chip.features
    assert (row.device_bytes > 0) == (chip.device == "cuda")
    assert chip.device == "cpu" or not chip.interpreted
    assert (row.arch == "cpu") == (row.detector is None)
    found = () if row.arch == "cpu" else (Device(name="x", arch=row.arch, memory_bytes=1),)
    assert platform_of(found) == chip


def chips_with(feature):
    return {row.name for row in PLATFORMS.built_in if feature in platform(row.name).features}


def test_each_platform_names_the_encoding_of_its_fp8():
    encodings = {
        row.name: platform(row.name).features & {"fp8_e4m3", "fp8_e4m3fnuz"}
        for row in PLATFORMS.built_in
    }
    assert encodings == {
        "cpu": {"fp8_e4m3", "fp8_e4m3fnuz"},
        "cuda_sm80": set(),
        "cuda_sm120": {"fp8_e4m3"},
        "cuda_sm90": {"fp8_e4m3"},
        "cuda_sm100": {"fp8_e4m3"},
        "rocm_gfx942": {"fp8_e4m3fnuz"},
        "rocm_gfx950": {"fp8_e4m3"},
    }


def test_only_the_newest_chips_have_units_for_block_scales():
    assert (
        chips_with("mx_mma")
        == chips_with("fp4_mma")
        == {*("cuda_sm100", "cuda_sm120", "rocm_gfx950")}
    )


def test_ranks_write_into_each_other_s_memory_where_that_is_known_to_work():
    assert chips_with("peer_memory") == {"cpu", "cuda_sm90", "cuda_sm100"}


def test_each_platform_says_how_much_shared_memory_a_block_has_and_who_says_so():
    limits = {row.arch: platform(row.name).shared_bytes for row in PLATFORMS.built_in}
    kib = {"sm80": 163, "sm90": 227, "sm100": 227, "sm120": 99, "gfx942": 64, "gfx950": 160}
    assert limits == {"cpu": None} | {arch: size * 1024 for arch, size in kib.items()}
    for row in PLATFORMS.built_in:
        chip = platform(row.name)
        assert (chip.shared_bytes is None) == (chip.shared_source == "") == (row.arch == "cpu")
        assert chip.shared_bytes is None or f"{chip.shared_bytes // 1024} KB" in chip.shared_source


@pytest.mark.parametrize("row", PLATFORMS.built_in, ids=lambda row: row.name)
def test_each_platform_names_its_target_for_tritons_compiler(row):
    chip = platform(row.name)
    if row.arch == "cpu":
        assert chip.triton_target is None
        return
    vendor = {"cuda": "cuda", "rocm": "hip"}[row.name.partition("_")[0]]
    number = int(row.arch.removeprefix("sm")) if vendor == "cuda" else row.arch
    warp = {"cuda": 32, "hip": 64}[vendor]
    assert chip.triton_target == TritonTarget(backend=vendor, arch=number, warp=warp)


def test_an_unknown_platform_names_the_known():
    with pytest.raises(UnknownMemberError, match="no platform is called 'tpu'"):
        platform("tpu")


OUTSIDE = """
from moe.platforms import PlatformSpec
from moe.platforms.detect import Device
from moe.spec import Platform

SHINY = PlatformSpec(
    name="shiny", target="shiny_chips:platform", arch="shiny1", detector="shiny_chips:detected"
)


def platform():
    return Platform(name="shiny", device="cpu", features=frozenset({"cpu", "shiny1"}))


def detected(environ):
    if "NO_SHINY" in environ:
        return ()
    return (Device(name="Shiny One", arch="shiny1", memory_bytes=0),)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package whose entry point names a platform's row, for other processes."""
    (tmp_path / "shiny_chips.py").write_text(OUTSIDE)
    info = tmp_path / "shiny_chips-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shiny_chips\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[moe.platforms]\nshiny = shiny_chips:SHINY\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")


def printed(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.skipif(bool(devices()), reason="a GPU comes before a CPU of another package")
def test_the_row_of_another_package_is_detected(package, monkeypatch, hidden):
    if hidden:
        monkeypatch.setenv("NO_SHINY", "1")
    lines = printed(
        "from harness.plan.machine import detect, planned_for\n"
        "from moe import families\n"
        "here = detect()\n"
        "print(here.platform.name, here.devices, here.device_bytes)\n"
        "print(list(families.table('platform').rows)[-1], planned_for('shiny').platform.name)\n"
    )
    assert lines == ["cpu 0 0" if hidden else "shiny 0 0", "shiny shiny"]


def test_a_platform_is_named_by_its_import_path_too(package):
    code = (
        "import shiny_chips\n"
        "shiny_chips.platform.row = shiny_chips.SHINY\n"
        "from harness.plan.machine import planned_for\n"
        "print(planned_for('shiny_chips:platform').platform.name)\n"
    )
    assert printed(code) == ["shiny"]
