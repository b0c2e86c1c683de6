"""Show errors about a command line in one line that a terminal can show. No torch.

An error names the value that is wrong. A value that a script put together may hold line breaks,
control sequences or thousands of characters, and a path may be one that no call of the operating
system takes.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 300  # characters of an argument that an error shows
_END = 60  # of them at its end
# What a path of the command line may meet wherever it is first used.
_OF_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM)


def readable(text: str, argv: Sequence[str]) -> str:
    """Return an error's text with each argument in it escaped and shortened where it must be."""
    values = {value.rstrip("/") for word in argv for value in (word, word.partition("=")[2])}
    for value in sorted(values, key=len, reverse=True):
        if value.strip() and not (value.isprintable() and len(value) <= _LONGEST):
            text = text.replace(value, _shown(value))
    return text


def _shown(value: str) -> str:
    escaped = repr(value)[1:-1]
    if len(escaped) <= _LONGEST:
        return escaped
    return f"{escaped[: _LONGEST - _END]}[... {len(value):,} characters]{escaped[-_END:]}"


def of_path(error: OSError, argv: Sequence[str]) -> str | None:
    """Return the text for a path of the command line that cannot be used; None for other errors."""
    if error.errno not in _OF_PATHS or error.filename is None:
        return None
    values = [value for word in argv for value in (word, word.partition("=")[2]) if value]
    path = Path(os.fsdecode(error.filename))
    if not any(path.absolute().is_relative_to(Path(value).absolute()) for value in values):
        return None
    return f"cannot use {str(path)!r}: {reason_of(error)}; give another path"
