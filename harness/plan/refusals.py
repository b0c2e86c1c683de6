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

    NeedsOf = Callable[[Machine, str], tuple[Need, ...]]
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
    for rule in rules:
        reason = rule(case)
        if reason is not None:
            return reason
    return None


def own_members(case: MoETestConfig) -> None:
    """Raise MoEError for a whole layer whose case names members, as only the composed one does."""
    if case.experts != OWN or case.all2all != MoETestConfig.all2all:
        raise MoEError(f"layer {case.layer} has its own members; write experts:{OWN}, and no a2a")


def hidden_by_experts(case: MoETestConfig) -> Reason | None:
    """Return why the case's backend, which hides its choice, is not given its logits, or None."""
    return hidden_choice(case, row_needs.backend(case.experts))


def unnamed_by_experts(case: MoETestConfig) -> Reason | None:
    """Return why the case's backend does not support its call mode, or None."""
    return call_needs.unnamed_by(case, row_needs.backend(case.experts))


def asks_for_auto(case: MoETestConfig) -> bool:
    """Return whether a plan chooses the case's experts backend."""
    return case.layer == COMPOSED and case.experts == AUTO


class RowRule:
    """Ask the needs that a function gives for a row's name, as a judge remembers them."""

    __slots__ = ("judge", "name", "needs_of")  # a judge makes a dozen for each case

    def __init__(self, judge: Judge, needs_of: NeedsOf, name: str) -> None:
        self.judge = judge
        self.needs_of = needs_of
        self.name = name

    def __call__(self, case: MoETestConfig) -> Reason | None:
        return self.judge.refusal(self.needs_of, self.name, case)

    @property
    def needs(self) -> tuple[Need, ...]:
        """Return the needs. Raises MoEError for a name that no table has."""
        return self.judge.remembered(self.needs_of, self.name).needs


class Judge:
    """Judge cases for one machine. Needs of a row are evaluated once per values of their axes."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._remembered: dict[tuple[Callable[..., object], str], Remembered] = {}

    def __call__(self, case: MoETestConfig) -> tuple[MoETestConfig, Reason | None]:
        """Return the case, with a backend in place of `auto`, and the reason why it cannot run.

        Raises MoEError for names that no table has, or that exclude each other.
        """
        reason = first_of(self.layer_rules(case), case)
        if reason is not None:
            return case, reason
        if asks_for_auto(case):
            case = case.replace(experts=self.best(case))
        return case, first_of(self.member_rules(case), case)

    def layer_rules(self, case: MoETestConfig) -> tuple[Rule, ...]:
        """Return what is asked first of a case with these names, whatever its members are."""
        exact: tuple[Rule, ...] = ()
        if case.exact:
            exact = (
                RowRule(self, row_needs.exact_formats, case.quant),
                RowRule(self, row_needs.exact_activation, case.activation),
            )
        return (
            check_share,
            *CASE_RULES,
            RowRule(self, row_needs.possible, ""),
            RowRule(self, call_needs.call_mode, case.call),
            RowRule(self, row_needs.unbroken_blocks, case.quant),
            *exact,
        )

    def member_rules(self, case: MoETestConfig) -> tuple[Rule, ...]:
        """Return what is asked next: of the whole layer, or of the members; then of memory."""
        rules = self._of_members(case) if case.layer == COMPOSED else self._of_layer(case)
        return (*rules, RowRule(self, row_needs.memory, ""))

    def refusal(self, needs_of: NeedsOf, name: str, case: MoETestConfig) -> Reason | None:
        """Return the first refusal among the needs that a function gives for a row's name."""
        return self.remembered(needs_of, name)(case)

    def remembered(self, needs_of: NeedsOf, name: str) -> Remembered:
        """Return these needs, made once. Raises MoEError for a name that no table has."""
        remembered = self._remembered.get((needs_of, name))
        if remembered is None:
            remembered = self._remembered[needs_of, name] = Remembered(needs_of(self.machine, name))
        return remembered

    def _of_members(self, case: MoETestConfig) -> tuple[Rule, ...]:
        return (
            RowRule(self, row_needs.experts, case.experts),
            hidden_by_experts,
            unnamed_by_experts,
            RowRule(self, row_needs.interpreter_time, case.experts),
            *self._small(case, case.experts),
            RowRule(self, row_needs.router, case.router),
            RowRule(self, row_needs.activation, case.activation),
            RowRule(self, row_needs.quant, case.quant),
            RowRule(self, row_needs.all2all, case.all2all),
            self.dispatch,
        )

    def _small(self, case: MoETestConfig, experts_name: str) -> tuple[Rule, ...]:
        """Return what finds that small tiles would take a backend too long on this machine.

        A tactic's tiles are at least as large, so that this is the most that they take.
        """
        is_small = case.call == SMALL_TILES or case.tactic != DEFAULT_TACTIC
        return (RowRule(self, row_needs.small_tiles_time, experts_name),) if is_small else ()

    def dispatch(self, case: MoETestConfig) -> Reason | None:
        """Return why the experts backend cannot take what the all2all backend hands out."""
        return dispatch_refusal(row_needs.backend(case.experts), ALL2ALL.row(case.all2all))

    def _of_layer(self, case: MoETestConfig) -> tuple[Rule, ...]:
        """Return what is asked of a whole layer, and of its quantization."""
        return (
            own_members,
            of_composed_layer,
            RowRule(self, row_needs.layer, case.layer),
            RowRule(self, row_needs.quant, case.quant),
        )

    def best(self, case: MoETestConfig) -> str:
        """Return the first row that supports the case here and on the planned machine.

        Rows are tried in the oracle's order. Raises MoEError with every reason if no row does.
        """
        for name, rules in self.candidates(case):
            if first_of(rules, case) is None:
                return name
        return select(case.layer_spec, self.machine.platform, veto=self._veto(case)).winner.name

    def candidates(self, case: MoETestConfig) -> tuple[tuple[str, tuple[Rule, ...]], ...]:
        """Return the rows that can stand for `auto`, in the oracle's order, with their rules."""
        rows = ordered(EXPERTS, QUANT.row(case.quant).scheme, self.machine.platform)
        return tuple(
            (
                row.name,
                (
                    RowRule(self, row_needs.installed_experts, row.name),
                    *self._veto_rules(case, row),
                ),
            )
            for row in rows
        )

    def explain(self, case: MoETestConfig, packages_are: str) -> Explanation:
        """Return the answer of every experts backend; see `moe.oracle.explain`."""
        chip, veto = self.machine.platform, self._veto(case)
        return explain(case.layer_spec, chip, veto=veto, packages_are=packages_are)

    def _veto(self, case: MoETestConfig) -> Callable[[MemberSpec], Reason | None]:
        return lambda row: first_of(self._veto_rules(case, row), case)

    def _veto_rules(self, case: MoETestConfig, row: MemberSpec) -> tuple[Rule, ...]:
        """Return what a plan asks of a backend besides what its row says of packages."""
        return (
            RowRule(self, row_needs.experts, row.name),
            lambda case: hidden_choice(case, row),
            lambda case: call_needs.unnamed_by(case, row),
            RowRule(self, row_needs.interpreter_time, row.name),
            *self._small(case, row.name),
            lambda case: dispatch_refusal(row, ALL2ALL.row(case.all2all)),
        )
