"""Find in a package's source whether it has what a row calls, without importing it. Torch-free.

What a row calls is written as text: `"package.module:Class.method(first, second)"`. The module is
the one that defines the name; the arguments are optional, and leave `self` out.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CALL = re.compile(r"(?P<module>[\w.]+):(?P<path>[\w.]+)(\((?P<arguments>[\w, ]*)\))?")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class Call:
    """Name an attribute of a module, and the arguments that it is called with, or None."""

    module: str
    path: tuple[str, ...]  # names, each an attribute of the one before
    arguments: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Return the names joined by dots."""
        return ".".join(self.path)


@dataclass(frozen=True, kw_only=True)
class _Signature:
    """Hold the names of a function's arguments, and those that have no default."""

    names: tuple[str, ...]
    required: frozenset[str]


def parse(text: str) -> Call:
    """Return what the text names. Raises ValueError unless it is `module:Name` or a call of it."""
    match = _CALL.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not of the form 'package.module:Name.attribute(a, b)'")
    arguments = match["arguments"]
    names = None if arguments is None else tuple(filter(None, re.split(r"[, ]+", arguments)))
    return Call(module=match["module"], path=tuple(match["path"].split(".")), arguments=names)


def change(call: Call) -> str | None:
    """Return how the source differs from the call, or None if the call fits."""
    path = source_file(call.module)
    if path is None:
        return f"it has no module {call.module}"
    try:
        tree = _tree(path, path.stat().st_mtime_ns)
    except (OSError, SyntaxError, ValueError) as error:  # a wrong encoding is a ValueError
        return f"{call.module} cannot be read: {error}"
    node = _attribute(tree, call.path)
    if node is None:
        return f"{call.module} has no {call.name}"
    return None if call.arguments is None else _mismatch(call, call.arguments, node)


def source_file(module: str) -> Path | None:
    """Return the Python file of a module, or None. Imports nothing."""
    top, *names = module.split(".")
    spec = importlib.util.find_spec(top)  # a top-level name: its search imports no package
    if spec is None:
        return None
    if not names and spec.origin is not None:
        return Path(spec.origin) if spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder).joinpath(*names)
        for candidate in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@cache
def _tree(path: Path, _changed_at: int) -> ast.Module:
    """Return the parsed file, which a row's calls share: parsing takes 10 ms."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _attribute(node: ast.AST, path: Iterable[str]) -> ast.AST | None:
    """Return the statement that binds the last name of the path, or None."""
    current: ast.AST | None = node
    for name in path:
        if not isinstance(current, ast.Module | ast.ClassDef):
            return None
        current = next((s for s in _statements(current) if name in _names_bound(s)), None)
    return current


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a body, also those inside of `if`, `try` and `with`.

    Of a class, also those of its methods that set attributes of `self`.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _statements(child)
        if isinstance(node, ast.ClassDef) and isinstance(child, _FUNCTIONS):
            yield from (inner for inner in ast.walk(child) if isinstance(inner, ast.Assign))


def _names_bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds, or sets on `self`."""
    if isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in statement.names}
    if isinstance(statement, ast.AnnAssign):
        return {ast.unparse(statement.target).removeprefix("self.")}
    if isinstance(statement, ast.Assign):
        return {ast.unparse(target).removeprefix("self.") for target in statement.targets}
    return set()


def _mismatch(call: Call, given: tuple[str, ...], node: ast.AST) -> str | None:
    """Return how a signature differs from the arguments that are given, or None."""
    signature = _signature(node, is_method=len(call.path) > 1)
    if signature is None:
        return f"{call.name} is no function or class in {call.module}"
    in_order = tuple(name for name in signature.names if name in given)
    if in_order == given and signature.required <= set(given):
        return None
    return f"{call.name} takes ({', '.join(signature.names)}), not ({', '.join(given)})"


def _signature(node: ast.AST, *, is_method: bool) -> _Signature | None:
    """Return the signature of a function, or of a class's `__init__` or fields; else None."""
    if isinstance(node, ast.ClassDef):
        init = next((s for s in node.body if "__init__" in _names_bound(s)), None)
        return _fields(node) if init is None else _signature(init, is_method=True)
    if not isinstance(node, _FUNCTIONS):
        return None
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    optional = {a.arg for a in positional[len(positional) - len(arguments.defaults) :]}
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    optional |= {a.arg for a, default in pairs if default is not None}
    has_self = is_method and "staticmethod" not in map(ast.unparse, node.decorator_list)
    names = tuple(a.arg for a in (*positional[int(has_self) :], *arguments.kwonlyargs))
    return _Signature(names=names, required=frozenset(names) - optional)


def _fields(node: ast.ClassDef) -> _Signature:
    """Return the fields of a dataclass as a signature."""
    fields = [s for s in node.body if isinstance(s, ast.AnnAssign)]
    names = tuple(ast.unparse(field.target) for field in fields)
    required = frozenset(ast.unparse(field.target) for field in fields if field.value is None)
    return _Signature(names=names, required=required)
