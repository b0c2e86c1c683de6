"""Define the reason of a refusal. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reason:
    """State why a layer is refused. code: stable, to group by. text: one line for people."""

    code: str
    text: str
