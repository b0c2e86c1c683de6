"""The table of checks, and checks of other packages behind it."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint

import pytest

from harness import checks
from harness.checks.check import Check
from harness.errors import HarnessError
from harness.execute import run_case
from harness.record.result import Finding, Verdict
from tests.harness.execute_ranks import case, context

pytestmark = pytest.mark.usefixtures("one_thread")
SPOILT = Check(name="spoilt", run=lambda seen: (Finding(check="spoilt", text="seen"),))


def test_collective_checks_are_marked_so():
    names = {check.name for check in checks.all_checks() if check.collective}
    assert names >= {"tp_replicas", "determinism", "stages"}


def outside(monkeypatch, check):
    """Register a check as another package would."""
    entry = EntryPoint(name="x", value="somewhere:CHECK", group=checks.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: check)
    monkeypatch.setattr(checks, "entry_points", lambda group: [entry])
    checks.all_checks.cache_clear()


@pytest.fixture(autouse=True)
def fresh():
    yield
    checks.all_checks.cache_clear()


def test_a_check_of_another_package_decides_too(monkeypatch):
    outside(monkeypatch, SPOILT)
    assert checks.all_checks()[-1] is SPOILT
    found = run_case(case(m=8), context())
    assert (found.verdict, found.messages) == (Verdict.FAILED, ("seen",))


def test_two_checks_of_one_name_are_refused(monkeypatch):
    outside(monkeypatch, dataclasses.replace(SPOILT, name="determinism"))
    with pytest.raises(HarnessError, match="two checks are called 'determinism'; rename one"):
        checks.all_checks()
