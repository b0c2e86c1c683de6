"""Packages that a test makes in a folder on the search path, with metadata as an installer's."""

from __future__ import annotations

import importlib
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
    from dataclasses import dataclass

    LIMIT = 3
    if LIMIT:
        fused = None

    def run(x, ids, *, scale=1.0):
        return x

    class Experts:
        @dataclass
        class Config:
            hidden: int
            experts: int
            top_k: int = 2

        def __init__(self, config):
            self.gate_up = config

        def forward(self, x, ids):
            return x

        @staticmethod
        def plan(x):
            return x
"""


def install(
    folder: Path,
    name: str,
    version: str | None,
    source: str = SOURCE,
    distribution: str | None = None,
) -> str:
    """Write a package with a module `experts`; return its name. version: None: no metadata."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "experts.py").write_text(textwrap.dedent(source))
    if version is not None:
        owner = distribution or name
        metadata = folder / f"{owner.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {owner}\nVersion: {version}\n"
        )
        (metadata / "top_level.txt").write_text(f"{name}\n")
    importlib.invalidate_caches()
    return name
