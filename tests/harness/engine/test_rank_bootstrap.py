"""What a process gets on its way to a rank: session, channel, log, environment."""

from __future__ import annotations

import os
import sys

from harness.engine.messages import StartGang
from harness.engine.rank_bootstrap import apply_environment


def test_a_rank_has_its_own_session_and_only_its_own_channel(rank):
    assert rank["session"] == rank["pid"]
    assert rank["sockets"] == 1
    assert rank["stdin"] == "/dev/null"


def test_the_environment_of_the_order_is_applied(monkeypatch):
    monkeypatch.setenv("CHANGED", "before")
    monkeypatch.setenv("REMOVED", "before")
    monkeypatch.setenv("LEFT_ALONE", "before")
    monkeypatch.setattr(sys, "path", [*sys.path])
    order = StartGang(
        world_size=1,
        folder="",
        env={"CHANGED": "after"},
        unset=["REMOVED", "NEVER_SET"],
        sys_path=["/only"],
        init={},
    )
    path = sys.path
    apply_environment(order)
    assert os.environ["CHANGED"] == "after"
    assert "REMOVED" not in os.environ
    assert os.environ["LEFT_ALONE"] == "before"
    assert path == ["/only"]  # the list itself, which other modules may hold
