"""Read `-k` expressions over case ids: words with `and`, `or`, `not` and parentheses, as pytest's.

A word matches an id that contains it, whatever its case: `m:8-` has a `-` where `m:8` would also
match `m:80`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    Match = Callable[[str], bool]

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z0-9._:+-]+)|(?P<sign>[()]))")
_OPERATORS = ("and", "or", "not")


def matcher(text: str, option: str = "-k") -> Match:
    """Return a function that tells whether an expression matches a case id.

    option: what the expression was given to, for messages. Raises UsageError for an expression
    that cannot be read.
    """
    return _Parser(text, option).parse()


class _Parser:
    """Parse one expression by recursive descent: `or` binds least, `not` binds most."""

    def __init__(self, text: str, option: str) -> None:
        self._text, self._option = text, option
        self._tokens = self._split()
        self._next = 0

    def parse(self) -> Match:
        """Return the function of the whole expression."""
        match = self._any_of()
        if self._next < len(self._tokens):
            raise self._error("an operator")
        return match

    def _split(self) -> list[tuple[int, str]]:
        """Return each token with its column, counted from 1."""
        tokens, at = [], 0
        end = len(self._text.rstrip())
        while at < end:
            token = _TOKEN.match(self._text, at)
            if token is None:
                column = at + 1 + len(self._text[at:]) - len(self._text[at:].lstrip())
                sign = self._text[column - 1]
                raise self._unreadable(f"column {column}: {sign!r} is in no case id")
            at = token.end()
            tokens.append((token.start(token.lastgroup or 0) + 1, token[0].strip()))
        return tokens

    def _any_of(self) -> Match:
        parts = [self._all_of()]
        while self._takes("or"):
            parts.append(self._all_of())
        return lambda case_id: any(part(case_id) for part in parts)

    def _all_of(self) -> Match:
        parts = [self._one()]
        while self._takes("and"):
            parts.append(self._one())
        return lambda case_id: all(part(case_id) for part in parts)

    def _one(self) -> Match:
        if self._takes("not"):
            inner = self._one()
            return lambda case_id: not inner(case_id)
        if self._takes("("):
            inner = self._any_of()
            if not self._takes(")"):
                raise self._error("`)`")
            return inner
        if self._next == len(self._tokens) or self._tokens[self._next][1] in (*_OPERATORS, ")"):
            raise self._error("a word, `not` or `(`")
        word = self._tokens[self._next][1].lower()
        self._next += 1
        return lambda case_id: word in case_id.lower()

    def _takes(self, sign: str) -> bool:
        """Return whether the next token is this one, which is then behind."""
        is_next = self._next < len(self._tokens) and self._tokens[self._next][1] == sign
        self._next += is_next
        return is_next

    def _error(self, expected: str) -> UsageError:
        if self._next == len(self._tokens):
            return self._unreadable(f"at its end: {expected} is missing")
        column, token = self._tokens[self._next]
        return self._unreadable(f"column {column}: expected {expected}, not {token!r}")

    def _unreadable(self, text: str) -> UsageError:
        example = "write words of case ids with and, or, not: 'triton and not dp:2'"
        return UsageError(f"{self._option} {self._text!r}, {text}; {example}")
