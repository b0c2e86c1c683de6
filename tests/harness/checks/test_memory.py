"""What a call overwrote beside its output is a finding of that call."""

from __future__ import annotations

import pytest

from harness.checks import memory
from tests.harness.checks.observed import observation, with_call

pytestmark = pytest.mark.usefixtures("one_thread")


def test_calls_that_overwrite_nothing_have_no_finding():
    assert memory.findings(observation()) == ()


def test_each_violation_is_a_finding_of_its_call():
    seen = with_call(observation(), 0, broken=("the layer changed its input x",))
    seen = with_call(seen, 1, broken=("1 bytes after a buffer", "2 bytes before a buffer"))
    assert [(finding.call, finding.text) for finding in memory.findings(seen)] == [
        (0, "memory: the layer changed its input x"),
        (1, "second call with 3 tokens: memory: 1 bytes after a buffer"),
        (1, "second call with 3 tokens: memory: 2 bytes before a buffer"),
    ]
