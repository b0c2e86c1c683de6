"""The cases of a suite with their lines, for each worker's share of a machine."""

from __future__ import annotations

import dataclasses

import pytest

from harness.errors import ConfigError, UsageError
from harness.plan import machine
from harness.testing.suite_cases import (
    SuiteOptions,
    as_own_options,
    machine_of,
    matrix_file,
    planned,
    points_of,
)
from tests.harness.testing.pytest_runs import BASE, MATRIX

AUTO = """\
version: 1
defaults: {shapes: [[2, 256, 128]], num_experts: [8], top_k: [2]}
suites:
  small:
    description: x
    blocks:
      - experts: [auto]
        cases:
          - m:4-n:256-k:128-e:8-topk:2-experts:torch_loop
"""


@pytest.fixture
def options(tmp_path):
    def made(text=MATRIX, **changes):
        path = tmp_path / "m.yaml"
        path.write_text(text)
        return SuiteOptions(**{"suite": "small", "matrix": path, **changes})

    return made


def gpus(count):
    return dataclasses.replace(machine.planned_for("cuda_sm90", count), planned=False)


def test_points_have_the_line_of_their_block(options):
    lines = points_of(options())
    assert set(lines.values()) == {8, 9}
    assert lines[BASE] == lines[f"{BASE}-tp:2-seed:1"] == 8
    assert lines[BASE.replace("torch_loop", "flashinfer_cutlass")] == 9


def test_a_case_that_a_block_names_has_its_own_line(options):
    lines = points_of(options(AUTO))
    assert lines["m:4-n:256-k:128-e:8-topk:2-experts:torch_loop"] == 9


def test_what_runs_comes_first_with_its_job_and_what_is_refused_has_a_reason(options):
    asked = options(time_limit=7.0, retries=2)
    cases = planned(asked, points_of(asked))
    running = [case for case in cases.cases if case.job is not None]
    assert [case.case.world_size for case in running] == [1, 1, 2, 2]
    assert {case.job.time_limit for case in running} == {7.0}
    assert cases.selection.retries == 2
    (refused,) = cases.cases[len(running) :]
    assert (refused.refusal.code, refused.line) == ("platform_lacks_feature", 9)


def test_the_backend_that_auto_stands_for_has_the_line_of_its_point(options):
    asked = options(AUTO)
    cases = planned(asked, points_of(asked)).cases
    assert {case.line for case in cases} == {7, 9}
    assert "auto" not in {case.case.experts for case in cases}


def test_another_backend_takes_the_place_of_all(options):
    asked = options(experts="torch_grouped")
    cases = planned(asked, points_of(asked)).cases
    assert {case.case.experts for case in cases} == {"torch_grouped"}


def test_errors_of_the_file_and_of_the_options_are_the_harness_own(options):
    with pytest.raises(ConfigError, match=r"m\.yaml:1:1"):
        points_of(options("nonsense: 1\n"))
    with pytest.raises(UsageError, match="no suite is called 'smal', did you mean 'small'"):
        points_of(options(suite="smal"))
    with pytest.raises(UsageError, match="--time-limit must be more than 0"):
        planned(options(time_limit=-1.0), {BASE: 8})


def test_the_file_is_found_as_by_the_command(options, tmp_path):
    assert matrix_file(options()) == tmp_path / "m.yaml"
    assert matrix_file(options(matrix=None)).name == "matrix.yaml"


def test_workers_share_main_memory(options, monkeypatch):
    local = machine.planned_for("cpu")
    monkeypatch.setattr(machine, "detect", lambda: local)
    assert machine_of(options(workers=4)).memory_bytes == local.memory_bytes // 4


def test_workers_have_as_many_gpus_each(options, monkeypatch):
    monkeypatch.setattr(machine, "detect", lambda: gpus(5))
    assert machine_of(options(workers=2)).devices == 2
    assert machine_of(options(workers=2, devices=2)).devices == 1


def test_more_workers_than_gpus_share_them_only_on_request(options, monkeypatch):
    monkeypatch.setattr(machine, "detect", lambda: gpus(2))
    with pytest.raises(
        UsageError, match=r"4 workers would share 2 GPU\(s\): pass -n 2, or --moe-s"
    ):
        machine_of(options(workers=4))
    shared = machine_of(options(workers=4, share_devices=True))
    assert (shared.devices, shared.device_bytes) == (1, gpus(2).device_bytes // 2)


def test_devices_that_are_not_there_are_refused(options, monkeypatch):
    monkeypatch.setattr(machine, "detect", lambda: gpus(2))
    with pytest.raises(UsageError, match=r"--moe-devices 3: this machine has 2 GPU"):
        machine_of(options(devices=3))


def test_another_chip_is_planned_for(options):
    asked = options(platform="cuda_sm90")
    assert machine_of(asked).platform.name == "cuda_sm90"
    assert all(case.refusal is None for case in planned(asked, points_of(asked)).cases)


def test_errors_of_commands_get_the_names_that_options_have_here():
    text = "--layer has its own experts; leave --experts out: --layers, a--out, --moe-out, --out"
    assert as_own_options(text) == (
        "--moe-layer has its own experts; leave --moe-experts out: --layers, a--out, --moe-out, "
        "--moe-out"
    )


@pytest.mark.parametrize("platform", [None, "cuda_sm90"])
def test_a_machine_has_at_least_one_device(options, platform):
    with pytest.raises(UsageError, match="--moe-devices must be at least 1, not 0"):
        machine_of(options(devices=0, platform=platform))
