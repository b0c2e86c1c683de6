"""Read the header of a safetensors file: names, dtypes and shapes, without values or torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError, reason_of

if TYPE_CHECKING:
    from pathlib import Path

MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors package


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Say what a file holds under one key. dtype: in the words of safetensors, such as BF16."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by key. Raises UsageError that names the file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if 2 <= length <= MAX_HEADER else b""
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {reason_of(error)}") from error
    try:
        entries = json.loads(text)
        return {key: _stored(entry) for key, entry in entries.items() if key != "__metadata__"}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        rule = "it does not begin with a header of names, dtypes and shapes"
        raise UsageError(f"{str(path)!r} is not a safetensors file: {rule}") from error


def _stored(entry: Any) -> StoredTensor:
    shape = tuple(entry["shape"])
    if not (isinstance(entry["dtype"], str) and all(isinstance(size, int) for size in shape)):
        raise TypeError("dtype must be a text and shape whole numbers")
    return StoredTensor(dtype=entry["dtype"], shape=shape)
