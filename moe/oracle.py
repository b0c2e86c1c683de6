"""Which member of a family serves a problem: the first in the table's order that takes it.

The choice can be explained: the winner, and each row that was passed over with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.spec import Needs, experts_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from moe.registry import Registry
    from moe.spec import Platform, Problem, Reason, Row

    Veto = Callable[[Row], Reason | None]

AUTO = "auto"  # the name by which a caller asks for the oracle's choice


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The oracle's answer: the row that serves, and those before it in the table."""

    winner: Row
    refused: tuple[tuple[str, Reason], ...]  # (row name, why not), in table order


def select(
    problem: Problem,
    platform: Platform,
    *,
    family: Registry[Row] = EXPERTS,
    veto: Veto | None = None,
) -> Selection:
    """The first row of `family` that takes `problem` on `platform`.

    `veto` may refuse a row for reasons that are not the row's own (memory, time). Raises
    MoEError, which lists every reason, when no row is left.
    """
    refusal = experts_refusal if family is EXPERTS else Needs.refusal
    refused: list[tuple[str, Reason]] = []
    for row in family:
        reason = refusal(row.needs, problem, platform) or (veto(row) if veto else None)
        if reason is None:
            return Selection(winner=row, refused=tuple(refused))
        refused.append((row.name, reason))
    lines = "; ".join(f"{name}: {reason.text}" for name, reason in refused)
    raise MoEError(f"no {family.family} takes this problem on {platform.name}: {lines}")


def explain(selection: Selection) -> str:
    """One line a row that was looked at, for people."""
    lines = [f"{name}: no: {reason.code}: {reason.text}" for name, reason in selection.refused]
    return "\n".join([*lines, f"{selection.winner.name}: chosen"])
