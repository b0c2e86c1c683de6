"""List the packages that a case's members need, and their versions. No torch."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from moe import families, packages
from moe.layers import COMPOSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.matrix.case import MoETestConfig
    from moe.packages import Package
    from moe.spec import MemberSpec


def versions_of(case: MoETestConfig) -> dict[str, str]:
    """Return distribution -> installed version, of the packages that the case's members need."""
    return dict(_versions(packages_of([case])))


def packages_of(cases: Iterable[MoETestConfig]) -> tuple[Package | str, ...]:
    """Return the packages that the rows of the cases name, each once."""
    named = dict.fromkeys(pair for case in cases for pair in members_of(case))
    return _distinct(families.table(family).row(name) for family, name in named)


def members_of(case: MoETestConfig) -> Iterator[tuple[str, str]]:
    """Yield (family, name of the row); a layer from outside has its own experts."""
    other = "layer" if case.layer == COMPOSED else "experts"
    for family in families.CASE_FAMILIES:
        if family != other:
            yield family, getattr(case, family)


def packages_of_tables() -> tuple[Package | str, ...]:
    """Return the packages that any row of any table names, each once."""
    return _distinct(row for _, table in families.tables(families.CASE_FAMILIES) for row in table)


def _distinct(rows: Iterable[MemberSpec]) -> tuple[Package | str, ...]:
    return tuple(dict.fromkeys(package for row in rows for package in row.needs.packages))


@cache
def _versions(needed: tuple[Package | str, ...]) -> dict[str, str]:
    """Return `packages.versions`, read once per process: 0.3 ms for each package."""
    return packages.versions(needed)
