"""The doctor lists every member with its state here and finds facts that contradict each other."""

import subprocess

import pytest

from harness import cli
from harness.commands import doctor
from harness.plan import machine
from moe.experts import EXPERTS
from moe.platforms.detect import Device
from moe.quant import QUANT

HOPPER = Device(name="H200", arch="sm90", memory_bytes=150 * 10**9)
SEEN = {"name": "H200", "arch": "sm90", "bytes": 149 * 10**9}


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setattr(machine, "detect", lambda: machine.planned_for("cpu"))
    monkeypatch.setattr(doctor, "devices", lambda: ())
    answer = {"version": "2.13.0", "devices": [], "faults": {}}
    monkeypatch.setattr(doctor, "ask_torch", lambda members: answer)
    return answer


def test_every_member_is_available_or_says_why_not(cpu, capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    lines = {tuple(line.split()[:2]): line for line in out.splitlines()}
    for row in EXPERTS:
        assert ("experts", row.name) in lines
    for row in QUANT:
        assert lines["quant", row.name].endswith("available")
    assert lines["experts", "torch_grouped"].endswith("available with quant none")
    assert lines["experts", "torch_loop"].endswith(f"available with quant {', '.join(QUANT.rows)}")
    assert lines["call", "two_batches"].endswith("available")
    assert "no: call_mode_needs_device: call:graph needs a GPU" in lines["call", "graph"]
    refused = lines["experts", "flashinfer_cutlass"]
    assert refused.endswith(
        "no: platform_lacks_feature: needs cuda, fp8_mma, which cpu does not have"
    )
    assert "device     none" in out
    assert "version    torch " in out


def test_a_class_that_cannot_be_imported_is_a_problem(cpu, capsys):
    cpu["faults"] = {"experts/triton": "ImportError: broken"}
    assert cli.main(["doctor"]) == 75
    out = capsys.readouterr().out
    assert "no: cannot_import: ImportError: broken" in out
    assert "PROBLEM    experts 'triton' cannot be imported: ImportError: broken" in out


@pytest.mark.parametrize(
    ("found", "torch", "fault"),
    [
        ([], {"version": "2.13.0+cpu", "devices": []}, None),
        ([HOPPER], {"version": "2.13.0", "devices": [SEEN]}, None),
        ([HOPPER], {"version": "2.13.0+cpu", "devices": []}, "cannot use the 1 GPU(s)"),
        ([HOPPER], {"version": "2.13.0", "devices": []}, "detected 1 GPU(s), torch sees 0"),
        (
            [HOPPER],
            {"version": "2.13.0", "devices": [{**SEEN, "arch": "sm100"}]},
            "GPU 0: detected sm90, torch reports sm100",
        ),
        (
            [HOPPER],
            {"version": "2.13.0", "devices": [{**SEEN, "bytes": 80 * 10**9}]},
            "GPU 0: detected 150.0 GB, torch reports 80.0 GB",
        ),
        ([], {"error": "cannot be used: No module"}, "torch cannot be used: No module"),
    ],
)
def test_facts_are_checked_against_torch(found, torch, fault):
    faults = doctor.disagreements(found, torch)
    assert bool(faults) == (fault is not None)
    if fault:
        assert fault in faults[0]


def test_a_torch_that_cannot_start_is_told_in_one_line(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: libcuda missing\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    assert doctor.ask_torch() == {"error": "cannot be used: ImportError: libcuda missing"}

    def slow(*args, **kwargs):
        raise subprocess.TimeoutExpired(args, 1)

    monkeypatch.setattr(subprocess, "run", slow)
    assert "gave no answer" in doctor.ask_torch()["error"]
