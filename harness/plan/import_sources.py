"""Find the files of a module and of all that it imports, by reading and never by importing."""

from __future__ import annotations

import ast
from functools import cache
from typing import TYPE_CHECKING

from moe.package_source import source_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def sources(module: str, root: Path) -> frozenset[Path]:
    """Return the files under `root` of a module and of all that it imports, directly or not."""
    files: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name, root)
        if path is not None and name not in files:
            files[name] = path
            waiting += _imports(name, path)
    return frozenset(files.values())


@cache
def _file(module: str, root: Path) -> Path | None:
    """Return the file of a module, or None if it is not under `root`, or of an installed package.

    Modules are looked up in `root` first, and then on the search path.
    """
    names = module.split(".")
    if not all(names):  # of a relative import beyond the top
        return None
    path = root.joinpath(*names)
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    in_root = next((file for file in candidates if file.is_file()), None)
    if in_root is not None:
        return in_root
    try:
        installed = source_file(module)
    except (ImportError, ValueError):  # such as a module that was replaced while it ran
        return None
    if installed is None or "site-packages" in installed.parts:
        return None
    return installed.resolve() if installed.resolve().is_relative_to(root) else None


@cache
def _imports(module: str, path: Path) -> tuple[str, ...]:
    """Return the absolute names that a module imports where it runs, not only for a type checker.

    `from a import b` gives `a` and `a.b`, as b may be a module. A file that is not Python gives
    none.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: dict[str, None] = {}
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            names |= dict.fromkeys((base, *(f"{base}.{alias.name}" for alias in node.names)))
    return tuple(names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module of `from ... import`; dots at its start count up from the package."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    parents = parents[: max(0, len(parents) - node.level + 1)]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a tree's nodes, without the bodies of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from _statements(ast.Module(body=child.orelse, type_ignores=[]))
        else:
            yield child
            yield from _statements(child)
