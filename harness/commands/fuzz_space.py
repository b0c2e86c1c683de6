"""Describe what `fuzz` draws from: machine, code under test, sizes, fixed values. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.matrix.axis import value_error
from harness.matrix.case import AXES, MoETestConfig
from harness.matrix.case_id import parse_all
from harness.plan.refusals import Judge
from moe import families
from moe.experts import EXPERTS
from moe.layers import COMPOSED, LAYERS, OWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.plan.machine import Machine
    from moe.layers.layer_row import OwnLayerSpec
    from moe.spec import MemberSpec


@dataclass(frozen=True, kw_only=True)
class Space:
    """Describe what cases are drawn from.

    weights: largest experts * n * k. tokens: largest m * dp. batch: cases that are planned
    together; a gang runs cases of one batch only. bases: a real model's cases, to vary instead.
    fixed: values that every case has, by field name; the limits above do not apply to them.
    """

    machine: Machine
    experts: tuple[str, ...]
    layer: str = COMPOSED
    max_world: int = 4
    weights: int = 2**20
    tokens: int = 160
    batch: int = 64
    bases: tuple[MoETestConfig, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def judge(self) -> Judge:
        """Return what judges cases for the machine, and remembers the answers of needs."""
        return Judge(self.machine)

    @property
    def under_test(self) -> str:
        """Return the names of the backends, or of the layer that has its own experts."""
        return ", ".join(self.experts) if self.layer == COMPOSED else self.layer

    def row_of(self, experts: str) -> MemberSpec | OwnLayerSpec:
        """Return the row of the code under test in a case with these experts."""
        return EXPERTS.row(experts) if self.layer == COMPOSED else LAYERS.row(self.layer)

    def choices(self, name: str, values: Sequence[Any]) -> Sequence[Any]:
        """Return the values to draw for an axis: these, or the one that is fixed."""
        return (self.fixed[name],) if name in self.fixed else values

    def allowed_weights(self, row: MemberSpec) -> int:
        """Return the limit for a backend: a quarter for interpreted kernels (a few seconds)."""
        slow = self.machine.platform.interpreted and "triton" in row.needs.features
        return self.weights // 4 if slow else self.weights

    def holds(self, case: MoETestConfig) -> bool:
        """Return whether a case is within the limits of the space."""
        return (
            case.world_size <= self.max_world
            and case.m * case.dp_size <= self.tokens
            and case.num_experts * case.n * case.k
            <= self.allowed_weights(self.row_of(case.experts))
        )

    def runs(self, case: MoETestConfig) -> bool:
        """Return whether a plan on the machine does not refuse a case."""
        return self.judge(case)[1] is None


def space_for(
    machine: Machine,
    experts: str | None = None,
    layer: str | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Space:
    """Return the space of a machine.

    experts: one backend for all cases, a name or "package.module:Class". layer: a layer under test
    instead, named in the same way. fixed: as `Space.fixed`. Raises UnknownMemberError for a name
    that no table has.
    """
    fixed = fixed or {}
    if layer is not None and layer != COMPOSED:
        LAYERS.row(layer)
        space = space_for(machine, next(reversed(list(EXPERTS.rows))), None, fixed)
        return replace(space, experts=(OWN,), layer=layer)
    names = (experts,) if experts else tuple(reversed(list(EXPERTS.rows)))
    served = tuple(n for n in names if EXPERTS.row(n).needs.are_met_by(machine.platform))
    if machine.devices:
        return Space(
            machine=machine,
            experts=served or names,
            max_world=8,
            weights=2**24,
            tokens=2048,
            batch=256,  # a gang takes seconds to start there
            fixed=fixed,
        )
    return Space(machine=machine, experts=served or names, fixed=fixed)


def fixed_values(texts: Sequence[str]) -> dict[str, Any]:
    """Read `--set`: tokens as in case ids. Return their values by field name.

    Raises UsageError for what no case can have, and UnknownMemberError for a name that no table
    has.
    """
    by_token = {axis.token: axis for axis in AXES.values()}
    fixed, errors = parse_all([token for text in texts for token in text.split("-")], by_token)
    errors += [text for name, value in fixed.items() if (text := value_error(AXES[name], value))]
    errors += [f"write --{name} {fixed[name]}" for name in ("experts", "layer") if name in fixed]
    if errors:
        raise UsageError(f"--set: {'; '.join(errors)}")
    for name, value in fixed.items():
        if AXES[name].family:
            families.table(str(AXES[name].family)).row(value)
    return fixed
