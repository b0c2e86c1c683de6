"""Read the tokens of a case id: names and values, with an error for each token that is wrong."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from harness.errors import CaseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.matrix.axis import Axis

_NUMBER = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?\Z")
_INT = re.compile(r"(0|[1-9][0-9]*)\Z")


def parse_all(tokens: list[str], by_token: Mapping[str, Axis]) -> tuple[dict[str, Any], list[str]]:
    """Return the values of an id's tokens by field name, and an error for each invalid token."""
    values: dict[str, Any] = {}
    errors = []
    for token in tokens:
        try:
            name, value = _parse(token, by_token)
        except CaseError as error:
            errors.append(str(error))
            continue
        if name in values:
            errors.append(f"token {token!r}: {name} is given twice")
        values[name] = value
    return values, errors


def _parse(token: str, by_token: Mapping[str, Axis]) -> tuple[str, Any]:
    """Return (field name, value) of one token. Raises CaseError."""
    name, colon, text = token.partition(":")
    negated = not colon and name.startswith("no_")
    axis = by_token.get(name.removeprefix("no_") if negated else name)
    if axis is None:
        close = difflib.get_close_matches(name, by_token, n=1)
        hint = f", did you mean {close[0]!r}?" if close else f" (known: {', '.join(by_token)})"
        raise CaseError(f"token {token!r}: no field is called {name!r}{hint}")
    if axis.kind == "bool":
        if colon:
            raise CaseError(f"token {token!r}: write {name!r} or 'no_{name}'")
        return axis.name, not negated
    if not colon or negated:
        raise CaseError(f"token {token!r}: write '{name.removeprefix('no_')}:VALUE'")
    if axis.kind == "float":
        if not _NUMBER.match(text):
            raise CaseError(f"token {token!r}: {text!r} is not a number such as 2.5")
        return axis.name, float(text)
    if axis.kind != "int":
        return axis.name, text
    if not _INT.match(text):
        raise CaseError(f"token {token!r}: {text!r} is not a whole number")
    return axis.name, int(text)
