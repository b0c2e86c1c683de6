"""Keep the cases with a member whose files differ from a commit: `--only-changed REV`. No torch.

A file feeds a member if one of the member's modules imports it, directly or not. A table of rows
feeds the members whose rows differ, as long as nothing else in it does. A file feeds every
case if ranks or the controller import it whatever the member, if it is in `harness/`, or if nothing
tells what it feeds: a file of `moe/` that no import reaches, or one that is not Python, such as a
matrix or a build file. Documentation, and Python files that no member imports, feed none.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from harness.errors import NothingSelected
from harness.plan.changed_members import ROOT, members, sources_of
from harness.plan.changed_rows import changed_rows
from harness.plan.git_diff import difference
from harness.plan.import_sources import sources
from moe import families

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.plan.changed_members import Member
    from harness.plan.git_diff import Difference
    from harness.plan.plan import Plan

_PROCESSES = ("harness.cli", "harness.worker", "harness.execute")  # modules of every run
_NO_CODE_FOLDERS = frozenset({"docs", "tests", "benchmarks", ".buildkite", ".github"})
_NO_CODE_SUFFIXES = frozenset({".md", ".rst", ".svg", ".png"})
_NO_CODE_NAMES = frozenset({"LICENSE", ".gitignore"})
_MOST_LINES = 8  # of files on the screen
_MOST_NAMES = 6  # of members of a file


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What a changed file feeds. members: None for every case."""

    file: str  # relative to the repository's root
    members: frozenset[Member] | None

    def line(self) -> str:
        """Return the file and what it feeds."""
        if self.members is None:
            return f"    {self.file}: every case"
        names = [f"{family} {name}" for family, name in sorted(self.members)]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return f"    {self.file}: {', '.join(names[:_MOST_NAMES])}{more}"


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    """The part of a plan that changed files feed, and which files those are."""

    plan: Plan
    revision: str
    total: int  # cases before
    fed: tuple[Fed, ...]

    def lines(self) -> list[str]:
        """Return what was selected, and by which files; those that feed every case come first."""
        count = f"{len(self.plan.cases)} of {self.total} case(s)"
        files = [fed.line() for fed in self.fed[:_MOST_LINES]]
        more = len(self.fed) - len(files)
        more_line = [f"    and {more} more file(s)"] if more else []
        head = f"--only-changed {self.revision}: {count}, which {len(self.fed)} file(s) feed"
        return [head, *files, *more_line]


def only_changed(plan: Plan, revision: str, folder: Path | None = None) -> Narrowed:
    """Return the cases and refusals of a plan that files feed which differ from a commit.

    folder: in the repository that is asked, by default the current one. Raises UsageError if it
    cannot be asked, and NothingSelected if no case is fed.
    """
    changes = difference(revision, folder or Path.cwd())
    named = frozenset().union(*map(members, chain(plan.cases, plan.refused.cases)))
    fed = fed_by(changes, named)
    if not fed:
        raise NothingSelected(_nothing(changes))
    if fed[0].members is None:
        return Narrowed(plan=plan, revision=revision, total=len(plan.cases), fed=fed)
    changed = frozenset().union(*(file.members or frozenset() for file in fed))
    dropped = {case.id for case in plan.cases if not members(case) & changed}
    refused = plan.refused.where(bool(members(case) & changed) for case in plan.refused.cases)
    part = replace(plan.without(dropped), refused=refused)
    return Narrowed(plan=part, revision=revision, total=len(plan.cases), fed=fed)


def _nothing(changes: Difference) -> str:
    """Return why nothing is selected."""
    prefix = f"--only-changed {changes.revision!r}: "
    if not changes.files:
        return f"{prefix}no file in {changes.root} differs from it"
    count, first = len(changes.files), changes.files[0]
    return (
        f"{prefix}none of {count} changed file(s), such as {first}, feeds a case that is selected"
    )


def fed_by(changes: Difference, named: Iterable[Member]) -> tuple[Fed, ...]:
    """Return the changed files that feed some of these members; first those that feed all."""
    root = changes.root
    named = frozenset(named)
    users: defaultdict[Path, set[Member]] = defaultdict(set)
    for member in named | _listed():  # others' files must not look like nobody's
        for path in sources_of(member, root):
            users[path] |= {member} & named
    common = _common(root)
    by_row = {name: rows & named for name, rows in changed_rows(changes).items()}
    fed = [
        Fed(file=name, members=by_row.get(name, _fed(name, root, common, users)))
        for name in changes.files
    ]
    return tuple(sorted((f for f in fed if f.members != frozenset()), key=_order))


def _order(fed: Fed) -> tuple[bool, str]:
    return fed.members is not None, fed.file


def _listed() -> frozenset[Member]:
    """Return the members of all tables, whether or not a case names them."""
    tables = families.tables(families.CASE_FAMILIES)
    return frozenset((family, row.name) for family, table in tables for row in table)


@cache
def _common(root: Path) -> frozenset[Path]:
    """Return the files that every case uses: of its processes, and of the platforms."""
    targets = [str(row.target).partition(":")[0] for row in families.table("platform")]
    return frozenset().union(*(sources(module, root) for module in (*_PROCESSES, *targets)))


def _fed(
    name: str, root: Path, common: frozenset[Path], users: dict[Path, set[Member]]
) -> frozenset[Member] | None:
    """Return the members that a file feeds; None for every case."""
    path = root / name
    is_inside = path.is_relative_to(ROOT)
    room = path.relative_to(ROOT).parts[0] if is_inside else ""
    if path in common or room == "harness":
        return None
    if path in users:
        return frozenset(users[path])
    feeds_none = _has_no_code(PurePosixPath(name)) or (path.suffix == ".py" and room != "moe")
    return frozenset() if feeds_none else None


def _has_no_code(path: PurePosixPath) -> bool:
    """Return whether a file is documentation, a test, or the like."""
    return (
        path.suffix in _NO_CODE_SUFFIXES
        or path.name in _NO_CODE_NAMES
        or path.parts[0] in _NO_CODE_FOLDERS
    )
