"""Tell which members' code is among files: their modules, and what those import. No torch."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.matrix.case_packages import members_of
from harness.plan.git_diff import difference
from harness.plan.import_sources import sources
from moe import families
from moe.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.matrix.case import MoETestConfig

ROOT = Path(__file__).parents[2]  # of the repository, where this project is one
Member = tuple[str, str]  # family and name
_PATH = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")  # "package.module:Class"


def members(case: MoETestConfig) -> frozenset[Member]:
    """Return the members that a case names."""
    shared = [("quant", case.shared_quant)] if case.shared_experts else []
    return frozenset([*members_of(case), *shared])


def changed_files(revision: str | None, root: Path = ROOT) -> frozenset[Path]:
    """Return the files that differ from a commit, whether or not the change is committed.

    None, an unknown commit, or a folder that is not a repository: no file is known to differ.
    """
    if revision is None:
        return frozenset()
    try:
        return difference(revision.removesuffix("-dirty"), root).paths
    except UsageError:
        return frozenset()


def changed(
    named: Iterable[Member], files: frozenset[Path], root: Path = ROOT
) -> frozenset[Member]:
    """Return those of the members of which some module is among these files."""
    return frozenset(member for member in named if files & sources_of(member, root))


@cache
def sources_of(member: Member, root: Path) -> frozenset[Path]:
    """Return the files under `root` of all modules that a member's row names, and their imports.

    The row of a quantization method also names its formats, and with them their modules.
    """
    family, name = member
    modules = _modules(families.table(family).row(name))
    return frozenset().union(*(sources(module, root) for module in modules))


def _modules(row: object) -> Iterator[str]:
    """Yield the modules of the classes and functions that a row names."""
    for field in dataclasses.fields(row):  # type: ignore[arg-type]  # every row is a dataclass
        value = getattr(row, field.name)
        match = _PATH.fullmatch(value) if isinstance(value, str) else None
        if match is not None:
            yield match[1]
    scheme = getattr(row, "scheme", None)
    if scheme is not None:
        for name in (scheme.weights, scheme.activations):
            yield from _modules(FORMATS[name])
