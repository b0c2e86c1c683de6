"""No test of the diagnosis depends on how busy the machine is."""

from __future__ import annotations

import pytest

from harness.diagnosis import causes


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine must not make these tests stop looking."""
    monkeypatch.setattr(causes, "SECONDS", 600.0)
