"""The holders of a gang on several hosts are one to its controller, which is told who is lost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.engine.channel import Channel
from harness.engine.messages import Exited, Forked, NotStarted, Swept
from harness.engine.remote_hosts import JoinedHolders, Part


@pytest.fixture
def pair():
    """Two holders as one, and the hosts' ends of their channels."""
    channels = [Channel.pair() for _ in range(2)]
    parts = [
        Part(host=SimpleNamespace(address=f"10.0.0.{i}:4000"), ranks=range(2 * i, 2 * i + 2),
             channel=ours)
        for i, (ours, _) in enumerate(channels)
    ]  # fmt: skip
    yield JoinedHolders(parts), [theirs for _, theirs in channels]
    for ours, theirs in channels:
        ours.close()
        theirs.close()


def swept(orphans):
    return Swept(orphans=orphans, survivors=[orphans], memory_wait=0.5)


def test_ends_of_ranks_are_passed_on_and_the_gang_is_swept_once_every_host_is(pair):
    holders, (first, second) = pair
    first.send(Forked(holder=7, ranks=[8, 9]))  # of another host: no process id of this one
    assert holders.receive() == []
    second.send(Forked(holder=4, ranks=[5, 6]))
    assert holders.receive() == [Forked(holder=0, ranks=[])]
    first.send(swept(1))
    second.send(Exited(rank=3, status=-9))
    assert holders.receive() == [Exited(rank=3, status=-9)]
    second.send(swept(2))
    assert holders.receive() == [Swept(orphans=3, survivors=[1, 2], memory_wait=0.5)]
    first.close()
    second.close()
    assert holders.receive() == []
    assert holders.closed


def test_a_host_that_is_lost_is_named_with_its_ranks(pair):
    holders, (first, second) = pair
    assert not holders.closed
    second.close()
    first.send(swept(0))
    assert holders.receive() == []
    assert holders.closed
    assert holders.loss == "host 10.0.0.1:4000 with ranks 2-3 is gone"
    holders.send(Exited(rank=0, status=0))  # to those that are there
    assert first.wait() == Exited(rank=0, status=0)


def test_a_host_that_could_not_start_its_ranks_is_named_with_the_reason(pair):
    holders, (_, second) = pair
    second.send(NotStarted(reason="OSError: no more processes"))
    second.close()
    assert holders.receive() == []
    assert holders.closed
    text = "host 10.0.0.1:4000 could not start ranks 2-3: OSError: no more processes"
    assert holders.loss == text
