"""Tell which rows of tables a changed file of `moe` changes, if it changes nothing else. No torch.

A table of rows is imported for every case, whatever its members. If only assignments differ, and
what is made of them is rows, the rows before and after tell which members it feeds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.plan import row_listing
from harness.plan.changed_members import ROOT
from harness.plan.git_diff import extract
from harness.plan.module_names import names_made_from_changes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.plan.changed_members import Member
    from harness.plan.git_diff import Difference

SECONDS = 60  # to import the tables of one tree
PACKAGE = "moe"


def changed_rows(changes: Difference) -> dict[str, frozenset[Member]]:
    """Return the members whose rows differ from the commit, for each file with rows alone changed.

    Files of which that is not known are left out.
    """
    if not ROOT.is_relative_to(changes.root):
        return {}
    prefix = ROOT.relative_to(changes.root)
    package = prefix / PACKAGE
    files = [n for n in changes.files if Path(n).is_relative_to(package) and n.endswith(".py")]
    if not files:
        return {}
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        extract(changes, str(package), Path(folder))
        before = Path(folder).resolve() / prefix
        return compared({name: str(Path(name).relative_to(prefix)) for name in files}, before, ROOT)


def compared(files: Mapping[str, str], before: Path, after: Path) -> dict[str, frozenset[Member]]:
    """Return the members whose rows differ between two trees, for each file that has rows alone.

    files: their names as they are returned -> relative to the trees. Empty if tables differ in
    more than rows, or cannot be imported.
    """
    names_of = {name: _made(before / path, after / path) for name, path in files.items()}
    paths = {
        name: [f"{_module(files[name])}:{member}" for member in sorted(names)]
        for name, names in names_of.items()
        if names is not None
    }
    requested = [path for entries in paths.values() for path in entries]
    old, new = (_listing(tree, requested) if paths else None for tree in (before, after))
    members = _differing(old, new) if old and new else None
    if old is None or new is None or members is None:
        return {}
    answered = zip(requested, old["are_rows"], new["are_rows"], strict=True)
    unread = {path for path, *answers in answered if False in answers}
    return {
        name: members if entries else frozenset()
        for name, entries in paths.items()
        if unread.isdisjoint(entries)
    }


def _made(before: Path, after: Path) -> frozenset[str] | None:
    """Return the public names of a module whose values may differ; None if that is not known."""
    try:
        return names_made_from_changes(before.read_bytes(), after.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _module(path: str) -> str:
    """Return the name of a module. path: relative to its tree."""
    return ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")


def _listing(tree: Path, paths: list[str]) -> dict[str, Any] | None:
    """Return what `row_listing` tells of a tree; None if its tables cannot be imported."""
    command = [sys.executable, "-B", row_listing.__file__, str(tree), *paths]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        listing: dict[str, Any] | None = json.loads(done.stdout) if not done.returncode else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return listing


def _differing(old: dict[str, Any], new: dict[str, Any]) -> frozenset[Member] | None:
    """Return the members with a new or another row; None if more than that differs.

    The order of rows is one of preference, and a platform is part of every case.
    """
    rows = old["rows"]
    if old["others"] != new["others"] or rows["platform"] != new["rows"]["platform"]:
        return None
    members: set[Member] = set()
    for family, after in new["rows"].items():
        before = rows[family]
        if [name for name in before if name in after] != [name for name in after if name in before]:
            return None
        members |= {(family, name) for name, row in after.items() if before.get(name) != row}
    return frozenset(members)
