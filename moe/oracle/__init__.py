"""Select the experts backend, or another member, for a layer, and explain the choice. Torch-free.

`select` returns the first row that supports the layer, in the order of `moe.oracle.preference`, and
the rows that were passed over with their reasons. `explain` answers for every row, and says in what
environment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from moe import packages
from moe.errors import MoEError
from moe.experts import EXPERTS
from moe.needs import ALL2ALL_ONLY
from moe.oracle.preference import ordered as ordered
from moe.oracle.preference import preference as preference
from moe.spec import Needs, Reason, experts_refusal, first_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from moe.packages import Package
    from moe.registry import Registry
    from moe.spec import LayerSpec, MemberSpec, Need, Platform

    Veto = Callable[[MemberSpec], Reason | None]  # a caller's own condition for a row

AUTO = "auto"  # the name that stands for the oracle's selection
# How packages that rows need are judged: as installed here; all as there, for a plan for another
# machine; or none but Triton, which is a dependency of this project.
INSTALLED, DECLARED, ABSENT = "installed", "declared", "absent"
_OWN = ("triton",)
_TABLE_ORDER = "the table's own order"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Hold the selected row, and the rows tried before it, which refused."""

    winner: MemberSpec
    refused: tuple[tuple[str, Reason], ...]  # (row name, reason), in the order of trying


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Answer for every row of a family.

    winner: the first row that supports the layer, None if all refuse. answers: (row name, reason)
    in the order of trying; None: the row supports the layer. order: why in this order.
    """

    winner: str | None
    answers: tuple[tuple[str, Reason | None], ...]
    order: str
    platform: Platform
    packages: str  # INSTALLED, DECLARED or ABSENT
    versions: Mapping[str, str]  # distribution -> installed version


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
    refused: list[tuple[str, Reason]] = []
    for row in _in_order(family, layer_spec, platform):
        reason = _refusal(row, layer_spec, platform, family, INSTALLED)
        reason = reason or (veto(row) if veto else None)
        if reason is None:
            return Selection(winner=row, refused=tuple(refused))
        refused.append((row.name, reason))
    lines = "; ".join(f"{name}: {reason.text}" for name, reason in refused)
    raise MoEError(f"no {family.family} row supports this layer on {platform.name}: {lines}")


def explain(
    layer_spec: LayerSpec,
    platform: Platform,
    *,
    family: Registry[MemberSpec] = EXPERTS,
    veto: Veto | None = None,
    packages_are: str = INSTALLED,
) -> Explanation:
    """Return each row's answer. veto: as in `select`. packages_are: how packages are judged."""
    answers = tuple(
        (
            row.name,
            _refusal(row, layer_spec, platform, family, packages_are)
            or (veto(row) if veto else None),
        )
        for row in _in_order(family, layer_spec, platform)
    )
    entry = preference(layer_spec.scheme, platform) if family is EXPERTS else None
    needed = (package for row in family for package in row.needs.packages)
    return Explanation(
        winner=next((name for name, reason in answers if reason is None), None),
        answers=answers,
        order=_TABLE_ORDER if entry is None else entry.reason,
        platform=platform,
        packages=packages_are,
        versions=_versions(("torch", "triton", *dict.fromkeys(needed))),
    )


@cache
def _versions(needed: tuple[Package | str, ...]) -> Mapping[str, str]:
    """Return what is installed: reading it takes longer than judging a layer."""
    return MappingProxyType(packages.versions(needed))


def _in_order(
    family: Registry[MemberSpec], layer_spec: LayerSpec, platform: Platform
) -> Iterable[MemberSpec]:
    """Return the rows in the order of trying: preferences are of experts backends."""
    return ordered(family, layer_spec.scheme, platform) if family is EXPERTS else family


def _refusal(
    row: MemberSpec,
    layer_spec: LayerSpec,
    platform: Platform,
    family: Registry[MemberSpec],
    packages_are: str,
) -> Reason | None:
    """Return why a row refuses the layer, or None."""
    if packages_are == INSTALLED:
        refusal = experts_refusal if family is EXPERTS else Needs.refusal
        return refusal(row.needs, layer_spec, platform)
    reason = first_refusal(declared_needs(row.needs, platform, family is EXPERTS), layer_spec)
    needed = [package for package in row.needs.packages if package not in _OWN]
    if reason is None and packages_are == ABSENT and needed:
        names = ", ".join(p if isinstance(p, str) else p.distribution for p in needed)
        return Reason(code="package_missing", text=f"needs {names}")
    return reason


@cache
def declared_needs(needs: Needs, platform: Platform, of_experts: bool) -> tuple[Need, ...]:
    """Return what a row asks of a platform, whatever is installed: each row is asked often."""
    judged = replace(needs, packages=(), probe=None)
    if of_experts:
        return judged.asked(platform, leave_out=ALL2ALL_ONLY)
    return judged.asked(platform)
