"""Find why a layer cannot be called in a case's mode: the machine, the layer, or a member's row.

A member's row names the modes that it stands in `call_modes` of its needs: what it does not name it
does not support. No torch.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from harness.matrix.call_modes import CALL_MODES
from moe.all2all import ALL2ALL
from moe.eplb import NO_BALANCING
from moe.formats import FORMATS
from moe.layers import COMPOSED, LAYERS
from moe.routers import ROUTERS
from moe.spec import Need, Reason, reads, resolve

if TYPE_CHECKING:
    from harness.matrix.call_modes import CallModeSpec
    from harness.matrix.case import MoETestConfig
    from harness.plan.machine import Machine
    from moe.spec import LayerSpec, MemberSpec


def call_mode(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return what a call mode needs of a machine and of a layer."""
    mode, needs = CALL_MODES[name], []
    if mode.on_device:
        needs.append(Need.of(_no_device, mode, machine))
    if mode.probe is not None and not machine.planned:
        needs.append(Need.of(_probed, mode, machine))
    if mode.splits_tokens:
        needs.append(Need.of(_one_scale, mode))
    if mode.is_of_shared:
        needs.append(Need.of(_no_shared, mode))
    return tuple(needs)


@reads("layout")
def _no_device(mode: CallModeSpec, machine: Machine, layer_spec: LayerSpec) -> Reason | None:
    """Refuse a machine without GPUs, and ranks that share one."""
    world = layer_spec.layout.world_size
    if machine.platform.device == "cpu":
        text = f"call:{mode.name} needs a GPU, which has streams; leave it out, or run on a GPU"
    elif world > machine.devices:
        text = (
            f"call:{mode.name} needs a GPU for each of {world} ranks, not {machine.devices}: ranks "
            "that share one exchange through the host; use a smaller layout"
        )
    else:
        return None
    return Reason(code="call_mode_needs_device", text=text)


@reads()
def _probed(mode: CallModeSpec, machine: Machine, _: LayerSpec) -> Reason | None:
    reason: Reason | None = resolve(str(mode.probe))(machine)
    return reason


@reads("scheme", "shared_experts", "shared_scheme")
def _one_scale(mode: CallModeSpec, layer_spec: LayerSpec) -> Reason | None:
    """Refuse a scale over all tokens of a call: parts of the call would have other scales."""
    shared = [layer_spec.shared_scheme] if layer_spec.shared_experts else []
    used = [FORMATS[scheme.activations] for scheme in (layer_spec.scheme, *shared)]
    spanning = next((fmt.name for fmt in used if fmt.spans_rows), None)
    if spanning is None:
        return None
    text = (
        f"call:{mode.name} splits the tokens, and {spanning} has one scale for all of them; choose "
        "a quant, of shared experts too, with static scales, or with scales for each token or group"
    )
    return Reason(code="call_mode_changes_scale", text=text)


@reads("shared_experts", "shared_fused")
def _no_shared(mode: CallModeSpec, layer_spec: LayerSpec) -> Reason | None:
    """Refuse a layer that has no shared experts, or computes them with the routed ones."""
    if layer_spec.shared_experts and not layer_spec.shared_fused:
        return None
    text = f"call:{mode.name} is about shared experts that are not fused; set shared_experts"
    return Reason(code="no_shared_experts", text=text)


def no_compiler(machine: Machine) -> Reason | None:
    """Return why inductor cannot compile here, or None: on a CPU it needs a C++ compiler."""
    if machine.platform.device != "cpu":
        return None
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    if any(shutil.which(name) for name in names if name):
        return None
    text = "call:compile needs a C++ compiler (CXX, g++ or clang++); install one, or use aot_eager"
    return Reason(code="call_mode_needs_compiler", text=text)


def unnamed_mode(case: MoETestConfig) -> Reason | None:
    """Return why the all2all backend, the router or the whole layer refuses the mode, or None."""
    mode = CALL_MODES[case.call]
    if case.layer != COMPOSED:
        return _of_layer(case, mode)
    if mode.word is None:
        return None
    if case.eplb != NO_BALANCING:
        text = (
            f"call:{mode.name} splits a call's rows or records it, and load balancing goes by rows "
            "and counts calls; leave eplb or the mode out"
        )
        return Reason(code="call_mode_unsupported", text=text)
    return _of_all2all(case, mode.word) or unnamed_by(case, ROUTERS.row(case.router))


def _of_all2all(case: MoETestConfig, word: str) -> Reason | None:
    """Return why the all2all backend refuses the mode, or None.

    With nobody to exchange tokens with it may stand more (`alone_call_modes`).
    """
    row = ALL2ALL.row(case.all2all)
    exchanges = case.dp_size > 1 or case.pcp_size > 1 or case.sequence_parallel
    if not exchanges and word in row.needs.alone_call_modes:
        return None
    return unnamed_by(case, row)


def unnamed_by(case: MoETestConfig, row: MemberSpec) -> Reason | None:
    """Return why a row that does not name the case's mode refuses it, or None."""
    mode = CALL_MODES[case.call]
    if mode.word is None or mode.word in row.needs.call_modes:
        return None
    text = (
        f"{row.name}: does not name {mode.word!r} in `call_modes` of its needs (call:{mode.name})"
    )
    return Reason(code="call_mode_unsupported", text=text)


def _of_layer(case: MoETestConfig, mode: CallModeSpec) -> Reason | None:
    """Return why a whole layer refuses the mode, or None."""
    if mode.is_of_shared:
        text = f"call:{mode.name} schedules the composed layer's parts; a whole layer has its own"
        return Reason(code="call_mode_unsupported", text=text)
    return unnamed_by(case, LAYERS.row(case.layer))
