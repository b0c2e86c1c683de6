"""Tell which public names of a module a change may give another value, by reading. No torch."""

from __future__ import annotations

import ast

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def names_made_from_changes(before: bytes, after: bytes) -> frozenset[str] | None:
    """Return the public names that a change of a module's text reaches, without imported ones.

    None if anything else than imports, assignments and functions differs, or uses what differs.
    Comments and the module's docstring do not count. Raises SyntaxError and ValueError for what is
    not Python.
    """
    old, new = _statements(before), _statements(after)
    nodes = {**old, **new}
    changed = {text for text in nodes if (text in old) != (text in new)}
    while True:
        names = {name for text in changed for name in _defined(nodes[text])}
        users = {text for text in nodes if text not in changed and names & _used(nodes[text])}
        if not users:
            break
        changed |= users
    imports = (ast.Import, ast.ImportFrom)
    if not all(_defined(nodes[text]) and _has_values(nodes[text]) for text in changed):
        return None
    modules = {
        n for text in changed if not isinstance(nodes[text], imports) for n in _defined(nodes[text])
    }
    return frozenset(name for name in modules if not name.startswith("_"))


def _statements(text: bytes) -> dict[str, ast.stmt]:
    """Return the statements of a module by their text, without its docstring."""
    body = ast.parse(text).body
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return {ast.dump(statement): statement for statement in body}


def _has_values(statement: ast.stmt) -> bool:
    """Return whether a statement is not a class, whose methods are not told by its value."""
    return not isinstance(statement, ast.ClassDef)


def _defined(statement: ast.stmt) -> frozenset[str]:
    """Return the names that a statement of a module defines; none if that is not known."""
    if isinstance(statement, _DEFINITIONS):
        return frozenset([statement.name])
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        names = [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
        return frozenset(names)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
    if not all(isinstance(target, ast.Name) for target in targets):
        return frozenset()
    return frozenset(target.id for target in targets if isinstance(target, ast.Name))


def _used(statement: ast.stmt) -> frozenset[str]:
    """Return the names that a statement reads, inside functions, too."""
    nodes = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return frozenset(node.id for node in nodes if isinstance(node.ctx, ast.Load))
