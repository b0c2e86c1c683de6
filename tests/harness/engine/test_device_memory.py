"""Memory in use on the visible devices, and waiting for it to be released."""

from __future__ import annotations

import time

from harness.engine import device_memory


def test_memory_of_dead_ranks_is_waited_for_within_a_limit(monkeypatch):
    readings = iter([[9 << 30], [9 << 30], [1 << 30]])
    monkeypatch.setattr(device_memory, "used", lambda: next(readings))
    assert 0.03 < device_memory.wait_until_free([1 << 30], 5.0) < 1.0
    monkeypatch.setattr(device_memory, "used", lambda: [9 << 30])
    start = time.monotonic()
    assert device_memory.wait_until_free([1 << 30], 0.1) >= 0.1
    assert time.monotonic() - start < 1.0
    assert device_memory.wait_until_free([], 5.0) < 0.01
