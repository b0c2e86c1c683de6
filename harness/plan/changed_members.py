"""Tell which members' code has changed since a revision: their modules, and what those import.

Imports are read from the source, so that nothing is loaded. No torch.
"""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.matrix.case_packages import members_of
from moe import families

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.matrix.case import MoETestConfig

ROOT = Path(__file__).parents[2]  # of the repository, where this project is one
Member = tuple[str, str]  # family and name


def members(case: MoETestConfig) -> frozenset[Member]:
    """Return the members that a case names."""
    return frozenset(members_of(case))


def changed_files(revision: str | None, root: Path = ROOT) -> frozenset[Path]:
    """Return the files that differ from a commit, whether or not the change is committed.

    None, an unknown commit, or a folder that is not a repository: no file is known to differ.
    """
    if revision is None:
        return frozenset()
    commit = revision.removesuffix("-dirty")
    command = ["git", "-C", str(root), "diff", "--name-only", "-z", "--end-of-options", commit]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    names = done.stdout.split("\0") if done.returncode == 0 else []
    return frozenset(root / name for name in names if name)


def changed(
    named: Iterable[Member], files: frozenset[Path], root: Path = ROOT
) -> frozenset[Member]:
    """Return those of the members of which some module is among these files."""
    return frozenset(member for member in named if files & _sources(member, root))


@cache
def _sources(member: Member, root: Path) -> frozenset[Path]:
    """Return the files of a member's module and of all that it imports, directly or not."""
    family, name = member
    target = str(families.table(family).row(name).target)
    return sources(target.partition(":")[0], root)


def sources(module: str, root: Path) -> frozenset[Path]:
    """Return the files under `root` of a module and of all that it imports, directly or not."""
    files: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name, root)
        if path is not None and name not in files:
            files[name] = path
            waiting += _imports(path)
    return frozenset(files.values())


def _file(module: str, root: Path) -> Path | None:
    """Return the file of a module, or None if it is not under `root`."""
    path = root.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Return the absolute names that a file imports where it runs, not only for a type checker.

    `from a import b` gives `a` and `a.b`, as b may be a module.
    """
    names: dict[str, None] = {}
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names[node.module] = None
            names |= dict.fromkeys(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a tree's nodes, without the bodies of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _statements(child)
