"""Names of values: the words that say nothing about a value are not names in this project."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
BANNED = frozenset(
    {
        *("found", "said", "told", "here", "most", "look", "may"),
        *("sayers", "complaint", "holes", "whole"),
    }
)


def _targets(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of every value that this node itself binds or declares.

    Assignments, loops, comprehensions, `with ... as`, walrus and dataclass fields all store into
    a Name; attributes count where they are assigned on `self`.
    """
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.lineno, node.id
    elif isinstance(node, ast.arg):
        yield node.lineno, node.arg
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.lineno, node.attr
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        yield node.lineno, node.name
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.lineno, node.rest


def banned_names(source: str) -> list[tuple[int, str]]:
    """Return (line, name) of every banned name among a module's variables and arguments."""
    bound = (pair for node in ast.walk(ast.parse(source)) for pair in _targets(node))
    return sorted(pair for pair in bound if pair[1] in BANNED)


MODULES = sorted(
    str(file.relative_to(ROOT))
    for room in ("harness", "moe")
    for file in (ROOT / room).rglob("*.py")
)


@pytest.mark.parametrize("path", MODULES)
def test_names_say_what_a_value_is(path: str) -> None:
    lines = [
        f"{path}:{line}: {name!r} does not say what the value is"
        for line, name in banned_names((ROOT / path).read_text(encoding="utf-8"))
    ]
    if lines:
        rule = "name the value itself, by a word of docs/glossary.md where it has one: "
        rule += "findings, message, local, max_error, uncovered, ..."
        pytest.fail(
            "\n".join(
                [*lines, rule],
            ),
            pytrace=False,
        )


def test_both_packages_are_read() -> None:
    rooms = {path.split("/")[0] for path in MODULES}
    assert rooms == {"harness", "moe"}
    assert len(MODULES) > 150


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "a, (found, b) = 1, (2, 3)",
        "found: int = 1",
        "found += 1",
        "for found in (): pass",
        "x = [found for found in ()]",
        "with open('f') as found: pass",
        "if (found := 1): pass",
        "def f(found): pass",
        "def f(*, found=1): pass",
        "def f(*found): pass",
        "g = lambda found: 1",
        "class C:\n    found: int",
        "class C:\n    def f(self):\n        self.found = 1",
        "try:\n    pass\nexcept ValueError as found:\n    pass",
        "match 1:\n    case found:\n        pass",
        "match {}:\n    case {**found}:\n        pass",
        "match []:\n    case [*found]:\n        pass",
    ],
)
def test_every_way_to_name_a_value_is_read(source: str) -> None:
    assert [name for _, name in banned_names(source)] == ["found"]


@pytest.mark.parametrize(
    "source",
    ["findings = 1", "print(found)", "x.found = 1", "f(found=1)", "def found(): pass", "'found'"],
)
def test_other_uses_of_a_word_are_free(source: str) -> None:
    assert banned_names(source) == []
