"""Find why a case cannot run on a machine: the needs of its rows in order, remembered. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.matrix.call_modes import SMALL_TILES
from harness.matrix.case import MoETestConfig
from harness.matrix.features import missing_reason
from harness.matrix.layout_words import check_share
from harness.matrix.logit_rules import (
    hidden_choice,
    logits_reason,
    recorded_inputs,
    unjudged_choice,
)
from harness.matrix.skews import skew_refusal
from harness.plan import call_needs, row_needs
from harness.plan.memo import Remembered
from moe.all2all import ALL2ALL
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.layer_needs import layout_refusal
from moe.layers import COMPOSED, LAYERS, OWN
from moe.oracle import AUTO, explain, ordered, select
from moe.quant import QUANT
from moe.spec import DEFAULT_TACTIC, Need, Reason, dispatch_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harness.plan.machine import Machine
    from moe.oracle import Explanation
    from moe.spec import MemberSpec

    Rule = Callable[[MoETestConfig], Reason | None]


def possible_layout(case: MoETestConfig) -> Reason | None:
    """Return why the groups of the case's layout cannot be, or None."""
    return layout_refusal(case.layout)


def real_features(case: MoETestConfig) -> Reason | None:
    """Return why the real layer that the case stands for cannot be tested yet, or None."""
    return missing_reason(case.missing)


def of_composed_layer(case: MoETestConfig) -> Reason | None:
    """Return why a whole layer is not asked for what only the composed one does, or None."""
    if case.layer == COMPOSED:
        return None
    name = LAYERS.row(case.layer).name
    if case.exact:
        text = f"{name}: exact inputs do not carry router logits; leave `exact` out"
        return Reason(code="exact_unsupported", text=text)
    if case.roundup != 1:
        text = f"{name}: a whole layer pads its weights by itself; leave `roundup` out"
        return Reason(code="roundup_unsupported", text=text)
    if case.chunk or case.capacity:
        word = "chunk" if case.chunk else "capacity"
        text = f"{name}: a whole layer has its own dispatch; leave `{word}` out"
        return Reason(code=f"{word}_unsupported", text=text)
    return None


# Rules on every case itself, in the order of checking; they come before the needs of rows.
CASE_RULES: tuple[Rule, ...] = (
    possible_layout,
    real_features,
    logits_reason,
    unjudged_choice,
    recorded_inputs,
    skew_refusal,
    call_needs.unnamed_mode,
)


def first_of(rules: Iterable[Rule], case: MoETestConfig) -> Reason | None:
    """Return the reason of the first rule that refuses a case, or None."""
    return next(filter(None, (rule(case) for rule in rules)), None)


class Judge:
    """Judge cases for one machine. Needs of a row are evaluated once per values of their axes."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._remembered: dict[tuple[Callable[..., object], str], Remembered] = {}

    def __call__(self, case: MoETestConfig) -> tuple[MoETestConfig, Reason | None]:
        """Return the case, with a backend in place of `auto`, and the reason why it cannot run.

        Raises MoEError for names that no table has, or that exclude each other.
        """
        check_share(case)
        reason = (
            first_of(CASE_RULES, case)
            or self._refusal(row_needs.possible, "", case)
            or self._refusal(call_needs.call_mode, case.call, case)
            or self._refusal(row_needs.unbroken_blocks, case.quant, case)
            or (self._refusal(row_needs.exact_formats, case.quant, case) if case.exact else None)
            or (
                self._refusal(row_needs.exact_activation, case.activation, case)
                if case.exact
                else None
            )
        )
        if reason is not None:
            return case, reason
        if case.layer != COMPOSED:
            return case, self._of_layer(case) or self._refusal(row_needs.memory, "", case)
        if case.experts == AUTO:
            case = case.replace(experts=self._best(case))
        return case, self._of_members(case) or self._refusal(row_needs.memory, "", case)

    def _refusal(
        self, needs_of: Callable[[Machine, str], tuple[Need, ...]], name: str, case: MoETestConfig
    ) -> Reason | None:
        """Return the first refusal among the needs that a function gives for a row's name."""
        remembered = self._remembered.get((needs_of, name))
        if remembered is None:
            remembered = self._remembered[needs_of, name] = Remembered(needs_of(self.machine, name))
        return remembered(case)

    def _of_members(self, case: MoETestConfig) -> Reason | None:
        return (
            self._refusal(row_needs.experts, case.experts, case)
            or hidden_choice(case, row_needs.backend(case.experts))
            or call_needs.unnamed_by(case, row_needs.backend(case.experts))
            or self._refusal(row_needs.interpreter_time, case.experts, case)
            or self._small(case, case.experts)
            or self._refusal(row_needs.router, case.router, case)
            or self._refusal(row_needs.activation, case.activation, case)
            or self._refusal(row_needs.quant, case.quant, case)
            or self._refusal(row_needs.all2all, case.all2all, case)
            or self._dispatch(case.experts, case)
        )

    def _small(self, case: MoETestConfig, experts_name: str) -> Reason | None:
        """Return why small tiles would take a backend too long on this machine.

        A tactic's tiles are at least as large, so that this is the most that they take.
        """
        is_small = case.call == SMALL_TILES or case.tactic != DEFAULT_TACTIC
        return self._refusal(row_needs.small_tiles_time, experts_name, case) if is_small else None

    def _dispatch(self, experts_name: str, case: MoETestConfig) -> Reason | None:
        """Return why an experts backend cannot take what the case's all2all backend hands out."""
        return dispatch_refusal(row_needs.backend(experts_name), ALL2ALL.row(case.all2all))

    def _of_layer(self, case: MoETestConfig) -> Reason | None:
        """Return why a whole layer, or its quantization, does not support this case.

        Raises MoEError if the case also names members, which only the composed layer has.
        """
        if case.experts != OWN or case.all2all != MoETestConfig.all2all:
            raise MoEError(
                f"layer {case.layer} has its own members; write experts:{OWN}, and no a2a"
            )
        return (
            of_composed_layer(case)
            or self._refusal(row_needs.layer, case.layer, case)
            or self._refusal(row_needs.quant, case.quant, case)
        )

    def _best(self, case: MoETestConfig) -> str:
        """Return the first row that supports the case here and on the planned machine.

        Rows are tried in the oracle's order. Raises MoEError with every reason if no row does.
        """
        veto = self._veto(case)
        scheme = QUANT.row(case.quant).scheme
        for row in ordered(EXPERTS, scheme, self.machine.platform):
            if not (self._refusal(row_needs.installed_experts, row.name, case) or veto(row)):
                return row.name
        return select(case.layer_spec, self.machine.platform, veto=veto).winner.name

    def explain(self, case: MoETestConfig, packages_are: str) -> Explanation:
        """Return the answer of every experts backend; see `moe.oracle.explain`."""
        chip, veto = self.machine.platform, self._veto(case)
        return explain(case.layer_spec, chip, veto=veto, packages_are=packages_are)

    def _veto(self, case: MoETestConfig) -> Callable[[MemberSpec], Reason | None]:
        return lambda row: (
            self._refusal(row_needs.experts, row.name, case)
            or hidden_choice(case, row)
            or call_needs.unnamed_by(case, row)
            or self._refusal(row_needs.interpreter_time, row.name, case)
            or self._small(case, row.name)
            or self._dispatch(row.name, case)
        )
