"""Explain a wrong call by its structure, where no known mistake gives its output.

The table has one row for each kind of statement. A statement is made only if it predicts every row
of the call, wrong and right ones, but for what noise leaves.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.diagnosis.evidence import Evidence
    from harness.record.diagnosis import NamedCause


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One kind of statement. name: of the causes it returns. module: has `explain(Evidence)`.

    unless: kinds further up in the table; where one of them says something, it says the same.
    """

    name: str
    module: str
    unless: tuple[str, ...] = ()

    def of(self, evidence: Evidence) -> list[NamedCause]:
        """Return the statements of this kind that hold for the evidence."""
        module = importlib.import_module(f"harness.diagnosis.{self.module}")
        return list(module.explain(evidence))


# Of a router whose choice or weights are wrong
OF_ROUTER: tuple[Explanation, ...] = (
    Explanation(name="router_alike", module="router_alike"),
    Explanation(name="router_logits", module="router_logits", unless=("router_alike",)),
    Explanation(name="router_choice", module="router_choice", unless=("router_logits",)),
    Explanation(
        name="router_weights", module="router_weights", unless=("router_alike", "router_logits")
    ),
    Explanation(
        name="router_roundings",
        module="router_roundings",
        unless=("router_alike", "router_logits", "router_choice", "router_weights"),
    ),
)
EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(name="rows_moved", module="moved_rows"),
    Explanation(name="which_shares", module="which_shares"),
    Explanation(name="moved_shares", module="moved_shares", unless=("which_shares",)),
    Explanation(name="which_rounding", module="which_rounding"),
    Explanation(name="moved_scales", module="moved_scales"),
    Explanation(
        name="which_factor",
        module="which_factor",
        unless=("which_shares", "which_rounding", "moved_scales"),
    ),
    Explanation(name="which_expert", module="which_expert", unless=("which_shares",)),
    Explanation(name="which_parts", module="which_parts", unless=("which_shares",)),
    Explanation(name="which_adapters", module="which_adapters", unless=("which_shares",)),
    Explanation(name="adapter_columns", module="adapter_columns", unless=("which_adapters",)),
    Explanation(name="which_weights", module="which_weights", unless=("which_shares",)),
    Explanation(name="which_groups", module="which_groups", unless=("which_weights",)),
    Explanation(name="which_totals", module="which_totals", unless=("which_weights",)),
    Explanation(name="which_inputs", module="which_inputs", unless=("which_shares",)),
    Explanation(
        name="which_block_products",
        module="which_block_products",
        unless=("which_weights", "which_inputs"),
    ),
    Explanation(
        name="which_code_values",
        module="which_code_values",
        unless=("which_factor", "which_weights", "which_groups", "which_totals", "which_inputs"),
    ),
    Explanation(name="code_scales", module="code_scales"),
    Explanation(name="which_codes", module="which_codes", unless=("code_scales",)),
    Explanation(
        name="which_block_scales",
        module="which_block_scales",
        unless=("which_factor", "code_scales"),
    ),
    Explanation(name="which_addend", module="which_addend", unless=("which_expert",)),
    Explanation(name="stage_moved", module="stage_moved"),
    Explanation(name="rows_of_ranks", module="rows_of_ranks", unless=("stage_moved",)),
    Explanation(name="moved_weights", module="moved_weights", unless=("stage_moved",)),
    Explanation(name="which_ids", module="which_ids"),
    Explanation(name="which_counts", module="which_counts"),
    Explanation(name="slot_weights", module="slot_weights"),
    Explanation(name="zero_expert_weights", module="zero_expert_weights"),
    Explanation(name="which_function", module="which_function"),
)


def explanations(
    evidence: Evidence, table: Iterable[Explanation] = EXPLANATIONS
) -> tuple[list[NamedCause], list[str]]:
    """Return all statements, the one that leaves least first, and the exceptions of the others.

    Where nothing explains all values and some are NaN or Inf, the others are explained alone.
    """
    rows = tuple(table)
    causes, faults = _statements(evidence, rows)
    finite = None if causes else evidence.of_finite()
    if finite is not None:
        of_finite, _ = _statements(finite, rows)
        causes = [_without_nan(cause) for cause in of_finite if cause.cause.startswith("in stage ")]
    return sorted(causes, key=lambda cause: cause.residual), faults


def _without_nan(cause: NamedCause) -> NamedCause:
    """Return the cause of what is finite as one that says so."""
    where = " and ".join(filter(None, (cause.where, "where values are neither NaN nor Inf")))
    return dataclasses.replace(cause, where=where)


def _statements(
    evidence: Evidence, table: Iterable[Explanation]
) -> tuple[list[NamedCause], list[str]]:
    """Return the statements of all kinds, and the exceptions."""
    causes: list[NamedCause] = []
    faults: list[str] = []
    for explanation in table:
        if not {cause.name for cause in causes}.isdisjoint(explanation.unless):
            continue
        try:
            causes += explanation.of(evidence)
        except Exception as error:
            faults.append(f"{explanation.name}: {type(error).__name__}: {error}")
    return causes, faults
