"""Commands in a folder of their own, on a CPU machine, with an engine that runs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness.engine.scheduler
from harness.plan import machine
from tests.harness.fake_engine import TEXT, FakeEngine


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/matrix.yaml").write_text(TEXT)
    engine = FakeEngine()
    monkeypatch.setattr(harness.engine.scheduler, "run", engine.run)
    monkeypatch.setattr(machine, "detect", lambda: machine.planned_for("cpu"))
    return engine
