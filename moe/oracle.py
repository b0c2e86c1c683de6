"""Select the member of a family for a layer: the first row of the table that supports it.

`select` also returns the rows that refused before it, with reasons; `explain` formats both.
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
    from moe.spec import LayerSpec, MemberSpec, Platform, Reason

    Veto = Callable[[MemberSpec], Reason | None]  # a caller's own condition for a row

AUTO = "auto"  # the name that stands for the oracle's selection


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Hold the selected row, and the rows before it in the table that refused."""

    winner: MemberSpec
    refused: tuple[tuple[str, Reason], ...]  # (row name, reason), in table order


def select(
    layer_spec: LayerSpec,
    platform: Platform,
    *,
    family: Registry[MemberSpec] = EXPERTS,
    veto: Veto | None = None,
) -> Selection:
    """Return the first row of `family` that supports `layer_spec` on `platform`.

    veto: refuses a row for conditions beyond its needs, such as memory or time. Raises MoEError
    with all reasons if every row refuses.
    """
    refusal = experts_refusal if family is EXPERTS else Needs.refusal
    refused: list[tuple[str, Reason]] = []
    for row in family:
        reason = refusal(row.needs, layer_spec, platform) or (veto(row) if veto else None)
        if reason is None:
            return Selection(winner=row, refused=tuple(refused))
        refused.append((row.name, reason))
    lines = "; ".join(f"{name}: {reason.text}" for name, reason in refused)
    raise MoEError(f"no {family.family} row supports this layer on {platform.name}: {lines}")


def explain(selection: Selection) -> str:
    """Return one line per row up to the selected one, for people."""
    lines = [f"{name}: no: {reason.code}: {reason.text}" for name, reason in selection.refused]
    return "\n".join([*lines, f"{selection.winner.name}: chosen"])
