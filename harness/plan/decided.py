"""Tell which axes decide that a case is refused: equal values of these are refused in every case.

Covering suites learn from it which values exclude each other without judging every point. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from harness.errors import UsageError
from harness.matrix.logit_rules import hidden_choice
from harness.plan import call_needs, row_needs
from harness.plan.memo import ALL, AxesReader, axes_read
from harness.plan.refusals import CASE_RULES, Judge, of_composed_layer
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.layers import OWN
from moe.oracle import AUTO

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.matrix.case import MoETestConfig
    from harness.plan.machine import Machine
    from moe.spec import Need, Reason

# Function that gives needs -> axes that decide whether the judge asks for them. Needs of functions
# that are not listed are taken to be decided by all axes.
ASKED_BY: dict[Callable[..., object], frozenset[str]] = {
    row_needs.possible: frozenset(),
    row_needs.memory: frozenset(),
    call_needs.call_mode: frozenset({"call"}),
    row_needs.unbroken_blocks: frozenset({"quant"}),
    row_needs.quant: frozenset({"quant"}),
    row_needs.exact_formats: frozenset({"quant", "exact"}),
    row_needs.exact_activation: frozenset({"activation", "exact"}),
    row_needs.layer: frozenset({"layer"}),
    row_needs.experts: frozenset({"experts"}),
    row_needs.interpreter_time: frozenset({"experts"}),
    row_needs.small_tiles_time: frozenset({"experts", "call", "tactic"}),
    row_needs.router: frozenset({"router", "layer"}),
    row_needs.activation: frozenset({"activation", "layer"}),
    row_needs.all2all: frozenset({"all2all", "layer"}),
}


def _hidden(case: MoETestConfig) -> Reason | None:
    is_named = case.experts not in (AUTO, OWN)
    return hidden_choice(case, EXPERTS.row(case.experts)) if is_named else None


def _unnamed(case: MoETestConfig) -> Reason | None:
    is_named = case.experts not in (AUTO, OWN)
    return call_needs.unnamed_by(case, EXPERTS.row(case.experts)) if is_named else None


# Rules that the judge applies to a case itself, not to its layer: what they read decides.
RULES = (*CASE_RULES, of_composed_layer, _hidden, _unnamed)


def _read_by_rules(case: MoETestConfig) -> frozenset[str]:
    """Return the axes that the refusing rule read; all, if no rule refuses the case."""
    for rule in RULES:
        reader = AxesReader(case)
        if rule(cast("MoETestConfig", reader)) is not None:
            return reader.axes
    return ALL


class DecidingJudge(Judge):
    """Judge cases, and keep which axes decided the last refusal."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._last: tuple[Reason, frozenset[str]] | None = None

    def refused(self, case: MoETestConfig) -> tuple[str, frozenset[str]] | None:
        """Return the reason code and the deciding axes, or None for a case that can run.

        Raises UsageError for a member that no table has and no import path loads.
        """
        try:
            _, reason = self(case)
        except MoEError as error:
            raise UsageError(f"case {case.id}: {error}") from error
        if reason is None:
            return None
        if self._last is None or self._last[0] is not reason:
            return reason.code, _read_by_rules(case)
        return reason.code, ALL if case.experts == AUTO else self._last[1]

    def refusal(
        self, needs_of: Callable[[Machine, str], tuple[Need, ...]], name: str, case: MoETestConfig
    ) -> Reason | None:
        remembered = self.remembered(needs_of, name)
        reason = remembered(case)
        if reason is not None:
            need = remembered.refusing(case)
            axes = ASKED_BY.get(needs_of, ALL) | set(axes_read((need,)))
            self._last = reason, frozenset(axes)
        return reason

    def dispatch(self, case: MoETestConfig) -> Reason | None:
        reason = super().dispatch(case)
        if reason is not None:
            self._last = reason, frozenset({"experts", "all2all"})
        return reason
