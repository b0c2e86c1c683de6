"""Run `doctor`: report what this machine has, what each member needs, and whether torch agrees.

The harness detects platforms without torch. A separate process asks torch as well, so that a wrong
driver file, or a CPU build of torch on a machine with GPUs, is reported before a run fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.errors import ExitCode
from harness.matrix.call_modes import CALL_MODES
from harness.matrix.case_packages import packages_of_tables
from harness.plan import machine
from harness.plan.call_needs import call_mode
from harness.plan.manifest import versions
from moe import families
from moe.platforms.cpu import interpreter_fault
from moe.platforms.detect import devices
from moe.quant import QUANT
from moe.spec import DTYPE_BYTES, LayerSpec, Reason, first_refusal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from moe.platforms.detect import Device
    from moe.spec import MemberSpec, Platform

_TORCH_SECONDS = 180  # a first import of torch from a slow disk


@dataclass(frozen=True, kw_only=True)
class Member:
    """Describe one member on this machine. reason: why it supports no plain layer, or None."""

    family: str
    name: str
    reason: Reason | None
    takes: tuple[str, ...] = ()  # quantization methods, if it is an experts backend


def examine(_: argparse.Namespace) -> int:
    """Print everything; return 75 if the facts contradict each other, else 0."""
    local, detected = machine.detect(), devices()
    members = list(_members(local.platform))
    torch = ask_torch([f"{m.family}/{m.name}" for m in members if m.reason is None])
    faults = disagreements(detected, torch)
    for label, text in _lines(local, detected, torch):
        print(f"{label:<10} {text}")
    for member in members:
        fault = torch.get("faults", {}).get(f"{member.family}/{member.name}")
        print(f"{member.family:<10} {member.name:<26} {_availability(member, fault)}")
        if fault:
            faults.append(f"{member.family} {member.name!r} cannot be imported: {fault}")
    for name, reason in call_modes(local):
        state = "available" if reason is None else f"no: {reason.code}: {reason.text}"
        print(f"{'call':<10} {name:<26} {state}")
    for text in faults:
        print(f"PROBLEM    {text}")
    return ExitCode.INFRASTRUCTURE if faults else ExitCode.PASSED


def _lines(
    local: machine.Machine, detected: Sequence[Device], torch: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    chip = local.platform
    interpreted = "; Triton kernels are interpreted" if chip.interpreted else ""
    yield "platform", f"{chip.name} ({', '.join(sorted(chip.features))}{interpreted})"
    yield "machine", f"{local.cores} core(s), {local.memory_bytes / 1e9:.1f} GB"
    for device in detected:
        yield "device", f"{device.name}, {device.arch}, {device.memory_bytes / 1e9:.1f} GB"
    if not detected:
        yield "device", "none"
    for name, number in versions(packages_of_tables()).items():
        yield "version", f"{name} {number}"
    yield "torch", torch.get("error") or f"sees {len(torch['devices'])} device(s)"
    if chip.interpreted:
        yield "interpreter", interpreter_fault() or "Triton and numpy fit together"


def _availability(member: Member, fault: str | None) -> str:
    if member.reason is not None:
        return f"no: {member.reason.code}: {member.reason.text}"
    if fault:
        return f"no: cannot_import: {fault}"
    return "available" + (f" with quant {', '.join(member.takes)}" if member.takes else "")


def plain(quant: str = "none", dtype: str = "bf16") -> LayerSpec:
    """Return a layer that suits every member whose formats match: one rank, round sizes."""
    return LayerSpec(
        m=32,
        hidden=512,
        intermediate=512,
        num_experts=8,
        top_k=2,
        dtype=dtype,
        scheme=QUANT.row(quant).scheme,
    )


def call_modes(local: machine.Machine) -> Iterator[tuple[str, Reason | None]]:
    """Yield each call mode, and why no layer can be called so on this machine, or None."""
    layer_spec = replace(plain(), shared_experts=1)
    for name in CALL_MODES:
        yield name, first_refusal(call_mode(local, name), layer_spec)


def _members(platform: Platform) -> Iterator[Member]:
    for family, table in families.tables(families.CASE_FAMILIES):
        for row in table:
            if family == "experts":
                yield _experts(row, platform)
            else:
                layer_spec = plain(row.name if family == "quant" else "none")
                yield Member(
                    family=family, name=row.name, reason=row.needs.refusal(layer_spec, platform)
                )


def _experts(row: MemberSpec, platform: Platform) -> Member:
    """Return an experts row: available if some dtype and quantization fit, else with a reason."""
    first = row.needs.refusal(plain(), platform)
    takes = tuple(
        quant.name
        for quant in QUANT
        if any(row.needs.refusal(plain(quant.name, d), platform) is None for d in DTYPE_BYTES)
    )
    return Member(family="experts", name=row.name, reason=None if takes else first, takes=takes)


def ask_torch(members: Sequence[str] = ()) -> dict[str, Any]:
    """Return the answer of `harness.torch_probe`, or {"error": reason}."""
    command = [sys.executable, "-m", "harness.torch_probe", *members]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"gave no answer within {_TORCH_SECONDS} s"}
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"error": f"cannot be used: {last[0]}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def disagreements(detected: Sequence[Device], torch: dict[str, Any]) -> list[str]:
    """Return differences between torch and the driver's files; 5 % of memory may be reserved."""
    if "error" in torch:
        return [f"torch {torch['error']}"]
    if detected and torch["version"].endswith("+cpu"):
        count = len(detected)
        return [f"torch {torch['version']} cannot use the {count} GPU(s); they are ignored"]
    if len(detected) != len(torch["devices"]):
        return [f"detected {len(detected)} GPU(s), torch sees {len(torch['devices'])}"]
    faults = []
    for index, (device, by_torch) in enumerate(zip(detected, torch["devices"], strict=True)):
        if device.arch != by_torch["arch"]:
            faults.append(f"GPU {index}: detected {device.arch}, torch reports {by_torch['arch']}")
        if device.memory_bytes and abs(device.memory_bytes / by_torch["bytes"] - 1) > 0.05:
            faults.append(
                f"GPU {index}: detected {device.memory_bytes / 1e9:.1f} GB, "
                f"torch reports {by_torch['bytes'] / 1e9:.1f} GB"
            )
    return faults
