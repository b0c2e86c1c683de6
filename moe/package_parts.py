"""Reach modules and functions of a package without what the package imports around them.

Large packages import their whole client and server in `__init__`, and what those need, before
anybody can reach one kernel; some modules do the same for a function that needs torch alone.
"""

from __future__ import annotations
import __future__

import ast
import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from moe.package_source import source_file

if TYPE_CHECKING:
    from collections.abc import Mapping


def enter(package: str) -> None:
    """Let modules of a top-level package be imported without its `__init__`.

    A package that was imported before stays as it is. Raises ModuleNotFoundError if it is not
    installed.
    """
    if package in sys.modules:
        return
    spec = find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    sys.modules[package] = module_from_spec(spec)


def definitions(
    module: str, *names: str, given: Mapping[str, Any], decorators: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return functions, classes and constants of a package's module without importing it.

    Their statements run as they stand in the package's file, in its order. given: the names that
    they read from the rest of their module. decorators: those that stay, as they are written, such
    as `triton.jit`; others are left out: torch.compile would compute the same. Annotations are not
    evaluated. Raises ImportError for a module or a name that is not there.
    """
    path = source_file(module)
    if path is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    statements = {
        name: node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in _bound(node)
        if name in names
    }
    missing = sorted(set(names) - set(statements))
    if missing:
        raise ImportError(f"module {module!r} defines no {missing[0]!r}", name=module)
    body = [_undecorated(node, decorators) for node in statements.values()]
    flags = __future__.annotations.compiler_flag
    part = ModuleType(f"{module}:{names[0]}")
    sys.modules[part.__name__] = part  # torch.compile imports the module of a function
    namespace = vars(part)
    namespace.update(given)
    code = compile(ast.Module(body, type_ignores=[]), str(path), "exec", flags, dont_inherit=True)
    exec(code, namespace)  # noqa: S102  # the package's own code, as an import would run it
    return {name: namespace[name] for name in names}


def _bound(node: ast.stmt) -> tuple[str, ...]:
    """Return the names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return (node.name,)
    targets = node.targets if isinstance(node, ast.Assign) else ()
    return tuple(target.id for target in targets if isinstance(target, ast.Name))


def _undecorated(node: ast.stmt, kept: tuple[str, ...]) -> ast.stmt:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        node.decorator_list = [d for d in node.decorator_list if ast.unparse(d) in kept]
    return node
