"""Find why a case cannot run on a machine: the needs of its rows in order, remembered.

A row declares what it needs; memory and time of the machine are judged in this module. No torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.matrix.call_modes import SMALL_TILES
from harness.matrix.case import MoETestConfig
from harness.matrix.exactness import exact_refusal
from harness.matrix.features import missing_reason
from harness.matrix.layout_words import check_share
from harness.matrix.logit_rules import hidden_choice, logits_reason, unjudged_choice
from harness.plan import cost
from harness.plan.memo import Remembered
from moe import families
from moe.activations import ACTIVATIONS
from moe.all2all import ALL2ALL
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.layers import COMPOSED, LAYERS, OWN, OwnLayerSpec
from moe.needs import EXPERTS_ONLY
from moe.oracle import AUTO, explain, ordered, select
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import LAYER_NEEDS, Need, Reason, dispatch_refusal, reads

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.plan.machine import Machine
    from moe.oracle import Explanation
    from moe.quant import QuantSpec
    from moe.spec import LayerSpec, MemberSpec, Needs


class Judge:
    """Judge cases for one machine. Needs of a row are evaluated once per values of their axes."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._remembered: dict[tuple[Callable[..., object], str], Remembered] = {}

    def __call__(self, case: MoETestConfig) -> tuple[MoETestConfig, Reason | None]:
        """Return the case, with a backend in place of `auto`, and the reason why it cannot run.

        Raises MoEError for names that no table has, or that exclude each other.
        """
        check_share(case)
        reason = (
            missing_reason(case.missing)
            or logits_reason(case)
            or unjudged_choice(case)
            or self._refusal(possible, "", case)
            or self._refusal(unbroken_blocks, case.quant, case)
            or (self._refusal(exact_formats, case.quant, case) if case.exact else None)
            or (self._refusal(exact_activation, case.activation, case) if case.exact else None)
        )
        if reason is not None:
            return case, reason
        if case.layer != COMPOSED:
            return case, self._of_layer(case) or self._refusal(memory, "", case)
        if case.experts == AUTO:
            case = case.replace(experts=self._best(case))
        return case, self._of_members(case) or self._refusal(memory, "", case)

    def _refusal(
        self, needs_of: Callable[[Machine, str], tuple[Need, ...]], name: str, case: MoETestConfig
    ) -> Reason | None:
        """Return the first refusal among the needs that a function gives for a row's name."""
        remembered = self._remembered.get((needs_of, name))
        if remembered is None:
            remembered = self._remembered[needs_of, name] = Remembered(
                needs_of(self._machine, name)
            )
        return remembered(case)

    def _of_members(self, case: MoETestConfig) -> Reason | None:
        return (
            self._refusal(experts, case.experts, case)
            or hidden_choice(case, _backend(case.experts))
            or self._refusal(interpreter_time, case.experts, case)
            or self._small(case, case.experts)
            or self._refusal(router, case.router, case)
            or self._refusal(activation, case.activation, case)
            or self._refusal(quant, case.quant, case)
            or self._refusal(all2all, case.all2all, case)
            or self._dispatch(case.experts, case)
        )

    def _small(self, case: MoETestConfig, experts_name: str) -> Reason | None:
        """Return why small tiles would take a backend too long on this machine."""
        is_small = case.call == SMALL_TILES
        return self._refusal(small_tiles_time, experts_name, case) if is_small else None

    def _dispatch(self, experts_name: str, case: MoETestConfig) -> Reason | None:
        """Return why an experts backend cannot take what the case's all2all backend hands out."""
        return dispatch_refusal(_backend(experts_name), ALL2ALL.row(case.all2all))

    def _of_layer(self, case: MoETestConfig) -> Reason | None:
        """Return why a whole layer, or its quantization, does not support this case.

        Raises MoEError if the case also names members, which only the composed layer has.
        """
        if case.experts != OWN or case.all2all != MoETestConfig.all2all:
            raise MoEError(
                f"layer {case.layer} has its own members; write experts:{OWN}, and no a2a"
            )
        if case.exact:
            name = LAYERS.row(case.layer).name
            text = f"{name}: exact inputs do not carry router logits; leave `exact` out"
            return Reason(code="exact_unsupported", text=text)
        if case.roundup != 1:
            name = LAYERS.row(case.layer).name
            text = f"{name}: a whole layer pads its weights by itself; leave `roundup` out"
            return Reason(code="roundup_unsupported", text=text)
        return self._refusal(layer, case.layer, case) or self._refusal(quant, case.quant, case)

    def _best(self, case: MoETestConfig) -> str:
        """Return the first row that supports the case here and on the planned machine.

        Rows are tried in the oracle's order. Raises MoEError with every reason if no row does.
        """
        veto = self._veto(case)
        scheme = QUANT.row(case.quant).scheme
        for row in ordered(EXPERTS, scheme, self._machine.platform):
            if not (self._refusal(installed_experts, row.name, case) or veto(row)):
                return row.name
        return select(case.layer_spec, self._machine.platform, veto=veto).winner.name

    def explain(self, case: MoETestConfig, packages_are: str) -> Explanation:
        """Return the answer of every experts backend; see `moe.oracle.explain`."""
        chip, veto = self._machine.platform, self._veto(case)
        return explain(case.layer_spec, chip, veto=veto, packages_are=packages_are)

    def _veto(self, case: MoETestConfig) -> Callable[[MemberSpec], Reason | None]:
        return lambda row: (
            self._refusal(experts, row.name, case)
            or hidden_choice(case, row)
            or self._refusal(interpreter_time, row.name, case)
            or self._small(case, row.name)
            or self._dispatch(row.name, case)
        )


def possible(_: Machine, __: str) -> tuple[Need, ...]:
    """Return what every layer needs."""
    return LAYER_NEEDS


def experts(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the needs of an experts backend that can be judged for the machine."""
    row = _backend(name)
    needs = _judged_of(machine, row.needs)
    return _named(row, needs.asked(machine.platform, leave_out=()))


def installed_experts(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the needs of an experts backend, including packages in this process."""
    row = _backend(name)
    return _named(row, row.needs.asked(machine.platform, leave_out=()))


def _backend(name: str) -> MemberSpec:
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
    needs = _judged_of(machine, row.needs)
    return _named(row, needs.asked(machine.platform, leave_out=EXPERTS_ONLY))


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


def interpreter_time(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the time limit of a backend whose kernels are interpreted on this machine."""
    row = EXPERTS.row(name)
    if not machine.platform.interpreted or "triton" not in row.needs.features:
        return ()
    return _named(row, (Need.of(_interpreter_time, machine),))


def small_tiles_time(machine: Machine, name: str) -> tuple[Need, ...]:
    """Return the time limit of the same backends for cases whose kernels have small tiles."""
    row = EXPERTS.row(name)
    if not machine.platform.interpreted or "triton" not in row.needs.features:
        return ()
    return _named(row, (Need.of(_small_tiles_time, machine),))


@reads(*cost.SIZES, "scheme")
def _small_tiles_time(machine: Machine, layer_spec: LayerSpec) -> Reason | None:
    return _too_slow("in small tiles ", cost.small_tile_seconds(layer_spec, machine.cores))


@reads(*cost.SIZES)
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
