"""Say in plain words, with line and column, what is wrong with a YAML file of this project."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError, reason_of
from harness.matrix.yaml_positions import Located, YamlError, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.matrix.yaml_positions import Path as Place

MUST_BE = {
    "list_type": "a list",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a word",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "string_pattern_mismatch": "a name of a-z, 0-9 and _",
}

LONGEST_VALUE = 80  # characters of a wrong value that an error shows


def find(path: Path | None, default: Path) -> Path:
    """Return `path`, or if None the default in the current folder or else in the repository."""
    if path is not None:
        return path
    in_repository = Path(__file__).parents[2] / default
    return in_repository if not default.exists() and in_repository.exists() else default


def read(path: Path, kind: str) -> str:
    """Return the text of a file. Raises UsageError, which names its kind, if it is unreadable."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        text = f"cannot read the {kind} {str(path)!r}: {reason_of(error)}"
        raise UsageError(text) from error


def hint(word: str, known: Sequence[str]) -> str:
    """Return ", did you mean ...?" if `word` resembles a known one, else ""."""
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def render(path: Path, errors: list[YamlError]) -> list[str]:
    """Return each error as one line, sorted by place, without repetition."""
    ordered = sorted(errors, key=lambda e: (e.line, e.column, e.text))
    rows = [(f"{path}:{e.line}:{e.column}", show(e.path), e.text) for e in ordered]
    return list(dict.fromkeys(": ".join(part for part in row if part) for row in rows))


def error_at(located: Located, path: Place, text: str, *, key: bool = False) -> YamlError:
    """Return an error at the place of a value, or of its key."""
    line, column = located.where(path, key=key)
    return YamlError(line=line, column=column, path=path, text=text)


def empty(located: Located) -> list[YamlError]:
    """Return an error for each key or item without a value, which does not mean the default."""
    text = "has no value; give one or leave the key out"
    return [error_at(located, path, text) for path in located.empty]


def short(value: object) -> str:
    """Return a value as it is shown in an error: its first 80 characters."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def plain(
    kind: str, path: Place, ctx: dict[str, Any], value: object, known: Sequence[str]
) -> str | None:
    """Return one of pydantic's errors in plain words, or None if its message is as clear.

    known: the keys that may stand next to the one at `path`.
    """
    if kind == "extra_forbidden":
        names = ", ".join(known)
        return f"unknown key{hint(str(path[-1]), known) or f' (known: {names})'}"
    if kind in MUST_BE:
        return f"must be {MUST_BE[kind]}, not {short(value)}"
    if kind == "missing":
        return f"lacks the key {path[-1]!r}"
    if kind in ("too_short", "too_long", "string_too_short"):
        return "must not be empty"
    if kind in ("greater_than_equal", "greater_than"):
        least = f"at least {ctx['ge']}" if "ge" in ctx else f"more than {ctx['gt']:g}"
        return f"must be {least}, not {short(value)}"
    if kind == "less_than_equal":
        return f"must be at most {ctx['le']:,.0f}, not {short(value)}"
    if kind == "literal_error":
        return f"must be {ctx['expected']}, not {short(value)}"
    return str(ctx["error"]) if kind == "value_error" else None
