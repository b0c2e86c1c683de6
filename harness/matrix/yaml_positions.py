"""YAML as plain data plus where each part stands, with YAML 1.2's scalars and no surprises.

PyYAML alone reads `no` as False and `12:30` as 750, leaves `1e-3` a string, and lets the last
of two equal keys win in silence. Here the scalars are those of YAML 1.2's core schema, a key
that is given twice is a problem, and every value has a line and column to point at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]  # ("suites", "smoke", "blocks", 0)

_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)\Z",
        list("-+.0123456789"),
    ),
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's parser where it is there, with the scalars above instead of YAML 1.1's."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own way


for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One complaint; line and column count from 1."""

    line: int
    column: int
    path: Path
    text: str


@dataclass(kw_only=True)
class Located:
    """What a file says and where. `keys` point at a mapping's keys, `values` at any value."""

    value: Any = None
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    empty: list[Path] = field(default_factory=list)  # where the value is null or left out
    problems: list[Problem] = field(default_factory=list)

    def where(self, path: Path, *, key: bool = False) -> tuple[int, int]:
        """Line and column of the value (or key) at `path`, else of the nearest one around it."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, (1, 1))


def load(text: str) -> Located:
    """Read one document. Faults of the text itself are in `problems`, all but syntax at once."""
    located = Located()
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(part for part in (error.context, error.problem) if part)
        located.problems.append(Problem(line=line, column=column, path=(), text=f"no YAML: {what}"))
        return located
    except yaml.YAMLError as error:
        located.problems.append(Problem(line=1, column=1, path=(), text=f"no YAML: {error}"))
        return located
    if node is not None:
        located.value = _Builder(located).build(node, ())
    return located


class _Builder:
    """Walks PyYAML's nodes, filling in one `Located`."""

    def __init__(self, located: Located) -> None:
        self._located = located
        self._open: list[yaml.Node] = []  # nodes being built, to stop at an alias to one of them

    def build(self, node: yaml.Node, path: Path) -> Any:
        self._located.values[path] = _place(node)
        if node in self._open:
            return self._complain(node, path, "an alias may not contain itself")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode), node
            return self._scalar(node, path)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(key_node, path, "a key must be a plain word")
                continue
            key = str(key_node.value)
            if key in values:
                line, _ = self._located.keys[*path, key]
                text = f"this key is given twice, first in line {line}"
                self._complain(key_node, (*path, key), text)
                continue
            self._located.keys[*path, key] = _place(key_node)
            values[key] = self.build(value_node, (*path, key))
        return values

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if kind == "str":
            return text
        if kind == "null":
            self._located.empty.append(path)
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if kind == "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        return self._complain(node, path, f"no tag {node.tag!r} here; write a plain value")

    def _complain(self, node: yaml.Node, path: Path, text: str) -> None:
        line, column = _place(node)
        self._located.problems.append(Problem(line=line, column=column, path=path, text=text))


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def show(path: Path) -> str:
    """`suites.smoke.blocks[0].quant[2]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")
