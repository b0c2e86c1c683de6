"""Change what a row claims of its bits."""

from __future__ import annotations

import dataclasses


def disclaim(monkeypatch, registry, name):
    """Take the claim of the same bits away."""
    claim(monkeypatch, registry, name, deterministic=False)


def claim(monkeypatch, registry, name, **fields):
    row = dataclasses.replace(registry.row(name), **fields)
    real = type(registry).row
    monkeypatch.setattr(
        type(registry), "row", lambda self, asked: row if asked == name else real(self, asked)
    )
