"""List what a case's rows need of a layer and of a machine, row by row.

A row declares what it needs; memory and time of the machine are judged in this module. Each public
function takes a machine and a row's name and returns needs; `harness.plan.refusals` asks them in
order. No torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.matrix.exactness import exact_refusal
from harness.plan import cost
from moe import families
from moe.activations import ACTIVATIONS
from moe.all2all import ALL2ALL
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.layers import LAYERS
from moe.layers.layer_row import OwnLayerSpec
from moe.needs import ALL2ALL_ONLY, EXPERTS_ONLY
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import LAYER_NEEDS, Need, Reason, reads

PEER_MEMORY = "peer_memory"  # a feature of platforms that all2all backends ask for

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.plan.machine import Machine
    from moe.quant import QuantSpec
    from moe.spec import LayerSpec, MemberSpec, Needs


def possible(_: Machine, __: str) -> tuple[Need, ...]:
    """Return what every layer needs."""
    return LAYER_NEEDS


def experts(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the needs of an experts backend that can be judged for the machine."""
    row = backend(name)
    needs = _judged_of(machine, row.needs)
    return _named(row, needs.asked(machine.platform, leave_out=ALL2ALL_ONLY))


def installed_experts(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the needs of an experts backend, including packages in this process."""
    row = backend(name)
    return _named(row, row.needs.asked(machine.platform, leave_out=ALL2ALL_ONLY))


def backend(name: str) -> MemberSpec:
    """Return the row of an experts backend. Raises MoEError for a whole layer."""
    row = EXPERTS.row(name)
    if isinstance(row, OwnLayerSpec):
        raise MoEError(f"{name} is a whole layer, not an experts backend; use `--layer {name}`")
    return row


def layer(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the needs of a whole layer."""
    row = LAYERS.row(name)
    judged = replace(row, needs=_judged_of(machine, row.needs))
    return _named(row, judged.asked(machine.platform))


def router(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the needs of a router."""
    row = ROUTERS.row(name)
    judged = replace(row, needs=_judged_of(machine, row.needs))
    return _named(row, judged.asked(machine.platform))


def activation(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the needs of an activation function."""
    return _of_row(machine, "activation", name)


def quant(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the needs of a quantization method."""
    return _of_row(machine, "quant", name)


def all2all(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the needs of an all2all backend."""
    row = ALL2ALL.row(name)
    needs = _judged_of(machine, row.needs).asked(machine.platform, leave_out=EXPERTS_ONLY)
    alone = row.needs.own_device or PEER_MEMORY in row.needs.features
    on_cpu = machine.platform.device == "cpu"
    own_device = (Need.of(_shared_device, machine),) if alone and not on_cpu else ()
    return _named(row, (*needs, *own_device))


@reads("layout")
def _shared_device(machine: Machine, layer_spec: LayerSpec) -> Reason | None:
    """Refuse more ranks than devices: those of one device cannot address each other's memory."""
    world = layer_spec.layout.world_size
    if world <= machine.devices:
        return None
    text = (
        f"{world} ranks share {machine.devices} device(s), and ranks write into each other's "
        f"memory only if each has a device of its own ({PEER_MEMORY} or own_device in its needs)"
    )
    return Reason(code="ranks_share_device", text=text)


def _of_row(machine: Machine, family: str, name: str) -> tuple[Need, ...]:
    row = families.table(family).row(name)
    return _named(row, _judged_of(machine, row.needs).asked(machine.platform))


def _judged_of(machine: Machine, needs: Needs) -> Needs:
    """Return the needs that can be judged: for another machine, all but its packages."""
    return replace(needs, packages=(), probe=None) if machine.planned else needs


def _named(row: MemberSpec, needs: tuple[Need, ...]) -> tuple[Need, ...]:
    """Return the needs with the row's name before each reason."""
    return tuple(replace(need, refuse=_with_name(row.name, need.refuse)) for need in needs)


def _with_name(
    name: str, refuse: Callable[[LayerSpec], Reason | None]
) -> Callable[[LayerSpec], Reason | None]:
    def refuse_by_name(layer_spec: LayerSpec) -> Reason | None:
        reason = refuse(layer_spec)
        return reason and Reason(code=reason.code, text=f"{name}: {reason.text}")

    return refuse_by_name


def is_interpreted(machine: Machine, name: str) -> bool:
    """Return whether a backend's kernels are interpreted on this machine."""
    return machine.platform.interpreted and "triton" in EXPERTS.row(name).needs.features


def interpreter_time(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the time limit of a backend whose kernels are interpreted on this machine."""
    if not is_interpreted(machine, name):
        return ()
    return _named(EXPERTS.row(name), (Need.of(_interpreter_time, machine),))


def small_tiles_time(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the time limit of the same backends for cases whose kernels have small tiles."""
    if not is_interpreted(machine, name):
        return ()
    return _named(EXPERTS.row(name), (Need.of(_small_tiles_time, machine),))


@reads(*cost.SIZES, "scheme")
def _small_tiles_time(machine: Machine, layer_spec: LayerSpec) -> Reason | None:
    return _too_slow("in small tiles ", cost.small_tile_seconds(layer_spec, machine.cores))


@reads(*cost.SIZES, "scheme")
def _interpreter_time(machine: Machine, layer_spec: LayerSpec) -> Reason | None:
    return _too_slow("", cost.interpreted_seconds(layer_spec, machine.cores))


def _too_slow(how: str, seconds: float) -> Reason | None:
    if seconds <= cost.INTERPRETER_SECONDS:
        return None
    text = (
        f"interpreted kernels {how}would take about {seconds:.0f} s, more than "
        f"{cost.INTERPRETER_SECONDS:.0f} s; use a smaller shape or a GPU"
    )
    return Reason(code="interpreter_too_slow", text=text)


def exact_formats(_: Machine, __: str) -> tuple[Need, ...]:
    """Return the need of exact mode for formats that have exact inputs."""
    return (Need.of(_exact_formats),)


@reads("scheme")
def _exact_formats(layer_spec: LayerSpec) -> Reason | None:
    return exact_refusal(layer_spec.scheme)


def exact_activation(_: Machine, name: str) -> tuple[Need, ...]:
    """Return the need of exact mode for an activation that passes large gates unchanged.

    Its gates are large on purpose: squared, for instance, they leave the range of float32.
    """
    return (Need.of(_exact_activation, name),)


@reads()
def _exact_activation(name: str, _: LayerSpec) -> Reason | None:
    if ACTIVATIONS.row(name).identity_from is not None:
        return None
    text = f"activation {name} does not promise to be the identity (identity_from in its row)"
    return Reason(code="exact_unsupported", text=f"exact mode: {text}")


def unbroken_blocks(_: Machine, name: str) -> tuple[Need, ...]:
    """Return the need of a quantization method that no rank's shard ends inside a block."""
    row = QUANT.row(name)
    if row.block is None:
        return ()
    group = () if row.group is None else (Need.of(_cut_group, row, row.group),)
    return (*group, Need.of(_cut_edge, row, row.block), Need.of(_straddling, row, row.block))


@reads("hidden", "latent")
def _cut_group(row: QuantSpec, group: int, layer_spec: LayerSpec) -> Reason | None:
    """Refuse a hidden size that ends inside a group: kernels read whole groups of packed codes."""
    hidden = layer_spec.expert_hidden
    if hidden % group == 0:
        return None
    text = f"{row.name}: the hidden size {hidden} is not a multiple of a group, {group}"
    return Reason(code="group_does_not_divide", text=f"{text}; choose another size or quant")


@reads("intermediate")
def _cut_edge(row: QuantSpec, block: int, layer_spec: LayerSpec) -> Reason | None:
    """Refuse an intermediate size that ends inside a block; the hidden size may end in a part.

    Gate and up are stored one above the other, so the seam between them is at the intermediate
    size itself. Groups along the other dimension do not cross it.
    """
    size = layer_spec.intermediate
    if size % block == 0:
        return None
    seam = "the gate/up seam, or without a gate the" if row.group is None else "the"
    text = f"{row.name}: {seam} last intermediate column at {size} cuts a block of {block}"
    return Reason(code="block_straddles_shard", text=text)


@reads("intermediate", "layout")
def _straddling(row: QuantSpec, block: int, layer_spec: LayerSpec) -> Reason | None:
    """Refuse shards that do not end at a block's edge."""
    layout = layer_spec.layout
    shards = (layout.intermediate_of(r, layer_spec.intermediate) for r in range(layout.world_size))
    edge = next((shard.stop for shard in shards if shard.stop % block), None)
    if edge is None:
        return None
    text = f"{row.name}: a rank's shard ends at column {edge}, inside a block of {block}"
    return Reason(code="block_straddles_shard", text=text)


def memory(machine: Machine, _: str) -> tuple[Need, ...]:
    """Return the need that every rank fits into the machine's memory."""
    return (Need.of(_memory, machine),)


@reads(*cost.SIZES, "dtype", "scheme")
def _memory(machine: Machine, layer_spec: LayerSpec) -> Reason | None:
    text = cost.shortage(layer_spec, machine)
    return Reason(code="needs_memory", text=text) if text else None
