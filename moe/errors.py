"""The errors a user of `moe` can meet.

MoEError
├── UnknownMemberError   a name that no table row has; says which names there are
└── RefusedError         a row's `Needs` do not hold; carries the `Reason`
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moe.spec import Reason


class MoEError(ValueError):
    """A wrong request: the caller's, not a defect of the stack."""


class UnknownMemberError(MoEError):
    """Raised by a `Registry` for a name that it does not hold."""

    def __init__(self, family: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f", did you mean {close[0]!r}?" if close else _path_hint(name)
        kind = family if family == "experts" else family.removesuffix("s")  # "no router is called"
        super().__init__(f"no {kind} is called {name!r}{hint} (known: {', '.join(names)})")


def _path_hint(name: str) -> str:
    """Return how a class's import path is written, for a name with dots and no colon."""
    module, dot, attribute = name.rpartition(".")
    return f"; a class is named with a colon, as {f'{module}:{attribute}'!r}" if dot else ""


class RefusedError(MoEError):
    """Raised when a layer is built from members that refuse the problem."""

    def __init__(self, member: str, reason: Reason) -> None:
        super().__init__(f"{member} refuses this problem: {reason.code}: {reason.text}")
        self.reason = reason
