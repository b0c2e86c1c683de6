"""What a process gets on its way to a rank: session, channel, log, environment."""

from __future__ import annotations


def test_a_rank_has_its_own_session_and_only_its_own_channel(rank):
    assert rank["session"] == rank["pid"]
    assert rank["sockets"] == 1
    assert rank["stdin"] == "/dev/null"
