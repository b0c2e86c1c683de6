"""Load YAML as plain data with the line and column of each part, and with YAML 1.2's scalars.

PyYAML alone reads `no` as False and `12:30` as 750, leaves `1e-3` a string, and silently uses the
last of two equal keys. Here scalars follow YAML 1.2's core schema, a repeated key is an error, and
every value has a line and column for error messages. Merge keys (`<<: *name`) follow YAML 1.1;
aliases that expand to too many values are an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]  # ("suites", "smoke", "blocks", 0)

MAX_VALUES = 100_000  # with aliases expanded; real files have up to a few thousand

_MERGE = "<<"
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
    """libyaml's parser if available, with the scalars above instead of YAML 1.1's."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # as PyYAML declares it


for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


@dataclass(frozen=True, kw_only=True)
class YamlError:
    """One error of a file; line and column count from 1."""

    line: int
    column: int
    path: Path
    text: str


@dataclass(kw_only=True)
class Located:
    """The data of a file. keys, values: (line, column) of each key and each value."""

    value: Any = None
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    empty: list[Path] = field(default_factory=list)  # values that are null or left out
    errors: list[YamlError] = field(default_factory=list)

    def where(self, path: Path, *, key: bool = False) -> tuple[int, int]:
        """Return line and column of the value or key at `path`, or of the innermost parent."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, (1, 1))


def load(text: str) -> Located:
    """Read one document. `errors` has the first syntax error, or else every other error."""
    located = Located()
    try:
        node = yaml.compose(text, Loader=_Loader)
        located.value = None if node is None else _Builder(located).build(node, ())
    except yaml.YAMLError as error:
        located.errors.append(_syntax_error(error, text))
    except _TooManyError as error:
        located.errors = [error.args[0]]  # further errors inside aliases would repeat too often
    return located


def _syntax_error(error: yaml.YAMLError, text: str) -> YamlError:
    if isinstance(error, yaml.reader.ReaderError):  # its own text has several lines
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        reason = f"not valid YAML: character {text[error.position]!r}: {error.reason}"
        return YamlError(line=line, column=column, path=(), text=reason)
    if not isinstance(error, yaml.MarkedYAMLError):
        return YamlError(line=1, column=1, path=(), text=f"not valid YAML: {error}")
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    message = " ".join(part for part in (error.context, error.problem) if part)
    return YamlError(line=line, column=column, path=(), text=f"not valid YAML: {message}")


class _TooManyError(Exception):
    """The file has more values than allowed; the argument is the YamlError."""


_Pair = tuple[yaml.ScalarNode, yaml.Node]  # a key and its value


class _Builder:
    """Builds the data of PyYAML's nodes and fills in a `Located`."""

    def __init__(self, located: Located) -> None:
        self._located = located
        self._open: list[yaml.Node] = []  # nodes being built, to detect an alias to one of them
        self._count = 0  # nodes visited, counted again for each alias
        self._visited: set[int] = set()
        self._aliases: list[Path] = []  # aliases being expanded, the outermost first

    def build(self, node: yaml.Node, path: Path) -> Any:
        revisited = id(node) in self._visited
        self._aliases += [path] * revisited
        self._visit(node, path)
        self._located.values[path] = _place(node)
        value = self._value(node, path)
        del self._aliases[len(self._aliases) - revisited :]
        return value

    def _value(self, node: yaml.Node, path: Path) -> Any:
        if node in self._open:
            return self._add_error(node, path, "an alias may not contain itself")
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

    def _visit(self, node: yaml.Node, path: Path) -> None:
        """Count a node. Raises _TooManyError, at the place of the outermost alias."""
        self._count += 1
        self._visited.add(id(node))
        if self._count <= MAX_VALUES:
            return
        path = self._aliases[0] if self._aliases else path
        line, column = self._located.keys.get(path) or self._located.where(path[:-1])
        text = f"the file has more than {MAX_VALUES:,} values with all aliases expanded; "
        text += "write fewer aliases of aliases"
        raise _TooManyError(YamlError(line=line, column=column, path=path, text=text))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, (key_node, value_node) in self._pairs(node, path).items():
            self._located.keys[*path, key] = _place(key_node)
            values[key] = self.build(value_node, (*path, key))
        return values

    def _pairs(self, node: yaml.MappingNode, path: Path) -> dict[str, _Pair]:
        """Return the keys and values of a mapping, after those that it merges."""
        pairs: dict[str, _Pair] = {}
        for key_node, value_node in node.value:
            if self._is_new_key(key_node, pairs, path):
                pairs[str(key_node.value)] = key_node, value_node
        merge = pairs.get(_MERGE)
        if merge is None or merge[0].style:  # a quoted "<<" is an ordinary key
            return pairs
        del pairs[_MERGE]
        return self._merged(merge[1], (*path, _MERGE)) | pairs

    def _is_new_key(self, node: yaml.Node, pairs: dict[str, _Pair], path: Path) -> bool:
        """Return whether a node is a key that `pairs` lacks; otherwise add an error."""
        if not isinstance(node, yaml.ScalarNode):
            self._add_error(node, path, "a key must be a plain word")
            return False
        key = str(node.value)
        if key in pairs:
            line, _ = _place(pairs[key][0])
            self._add_error(node, (*path, key), f"this key is given twice, first in line {line}")
            return False
        return True

    def _merged(self, node: yaml.Node, path: Path) -> dict[str, _Pair]:
        """Return the pairs that `<<: node` merges; in a list, earlier mappings take precedence."""
        pairs: dict[str, _Pair] = {}
        several = isinstance(node, yaml.SequenceNode)
        for part in reversed(node.value) if several else [node]:
            self._visit(part, path)
            if not isinstance(part, yaml.MappingNode):
                text = "`<<` merges a mapping or a list of mappings, and this is neither"
                self._add_error(part, path, text)
            elif part in self._open:
                self._add_error(part, path, "an alias may not contain itself")
            else:
                self._open.append(part)
                pairs |= self._pairs(part, path)
                self._open.pop()
        return pairs

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
        text = f"the tag {node.tag!r} is not supported; write a plain value"
        return self._add_error(node, path, text)

    def _add_error(self, node: yaml.Node, path: Path, text: str) -> None:
        line, column = _place(node)
        self._located.errors.append(YamlError(line=line, column=column, path=path, text=text))


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def show(path: Path) -> str:
    """Return a path as text, such as `suites.smoke.blocks[0].quant[2]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")
