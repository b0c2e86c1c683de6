"""Define the exceptions that `moe` raises for requests that it cannot serve.

MoEError
├── UnknownMemberError   no row has this name; the message lists the known names
└── RefusedError         a row's `Needs` do not hold; carries the `Reason`
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moe.spec import Reason


_KINDS = {
    "experts": "experts backend",
    "all2all": "all2all backend",
    "quant": "quantization method",
}


class MoEError(ValueError):
    """Base class: the request is invalid, and the stack has no defect."""


class UnknownMemberError(MoEError):
    """Raised by a `Registry` for an unknown name."""

    def __init__(self, family: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f", did you mean {close[0]!r}?" if close else _path_hint(name)
        kind = _KINDS.get(family, family.removesuffix("s"))  # "no router is called"
        super().__init__(f"no {kind} is called {name!r}{hint} (known: {', '.join(names)})")


def _path_hint(name: str) -> str:
    """Return a hint to write `module:Class` for a name with dots and no colon, otherwise ""."""
    module, dot, attribute = name.rpartition(".")
    return f"; a class is named with a colon, as {f'{module}:{attribute}'!r}" if dot else ""


class RefusedError(MoEError):
    """Raised when a layer is built from a member that refuses the layer. reason: the cause."""

    def __init__(self, member: str, reason: Reason) -> None:
        super().__init__(f"{member} refuses this layer: {reason.code}: {reason.text}")
        self.reason = reason
