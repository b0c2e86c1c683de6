"""List the compiler's warnings that are accepted, each with its reason. Others are failures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """pattern: a regular expression for a part of the text. chips: where it is accepted."""

    pattern: str
    chips: tuple[str, ...]
    reason: str


ACCEPTED: tuple[Accepted, ...] = ()


def unlisted(
    texts: Iterable[str], chip: str, accepted: Iterable[Accepted] = ACCEPTED
) -> tuple[str, ...]:
    """Return the warnings of a kernel on `chip` that no entry accepts."""
    patterns = [re.compile(entry.pattern) for entry in accepted if chip in entry.chips]
    return tuple(text for text in texts if not any(p.search(text) for p in patterns))
