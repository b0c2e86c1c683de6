"""Hash the sources of this project, to compare those of two hosts. Torch-free."""

from __future__ import annotations

import hashlib
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("harness", "moe")


def source_hash() -> str:
    """Return a hash of the names and contents of all Python files of harness and moe."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
