"""Tell which axes decide that a case is refused: equal values of these are refused in every case.

Covering suites learn from it which values exclude each other without judging every point. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.matrix.case import AXES
from harness.plan import refusals
from harness.plan.memo import axes_read
from harness.plan.refusals import Judge
from moe.errors import MoEError
from moe.oracle import AUTO

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.matrix.case import MoETestConfig
    from harness.plan.machine import Machine
    from moe.spec import Need, Reason

ALL = frozenset(AXES)
# Function that gives needs -> axes that decide whether the judge asks for them. Needs of functions
# that are not listed are taken to be decided by all axes.
ASKED_BY: dict[Callable[..., object], frozenset[str]] = {
    refusals.possible: frozenset(),
    refusals.memory: frozenset(),
    refusals.unbroken_blocks: frozenset({"quant"}),
    refusals.quant: frozenset({"quant"}),
    refusals.exact_formats: frozenset({"quant", "exact"}),
    refusals.exact_activation: frozenset({"activation", "exact"}),
    refusals.layer: frozenset({"layer"}),
    refusals.experts: frozenset({"experts"}),
    refusals.interpreter_time: frozenset({"experts"}),
    refusals.router: frozenset({"router", "layer"}),
    refusals.activation: frozenset({"activation", "layer"}),
    refusals.all2all: frozenset({"all2all", "layer"}),
}


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
        is_last = self._last is not None and self._last[0] is reason
        axes = self._last[1] if self._last and is_last and case.experts != AUTO else ALL
        return reason.code, axes

    def _refusal(
        self, needs_of: Callable[[Machine, str], tuple[Need, ...]], name: str, case: MoETestConfig
    ) -> Reason | None:
        reason = super()._refusal(needs_of, name, case)
        if reason is not None:
            need = self._remembered[needs_of, name].refusing(case)
            axes = ASKED_BY.get(needs_of, ALL) | set(axes_read((need,)))
            self._last = reason, frozenset(axes)
        return reason

    def _dispatch(self, experts_name: str, case: MoETestConfig) -> Reason | None:
        reason = super()._dispatch(experts_name, case)
        if reason is not None:
            self._last = reason, frozenset({"experts", "all2all"})
        return reason
