"""Messages over a channel: unchanged, in order, with their descriptors."""

from __future__ import annotations

import os
import socket

from harness.engine.channel import Channel
from harness.engine.messages import Done, Probe, Probed, RunTask, Status, encode


def test_messages_come_through_a_channel_unchanged_and_in_order():
    ours, theirs = Channel.pair()
    sent = [RunTask(task="a:1"), Status(text='"\n{'), Done(passed=False, result={"x": [1.5, None]})]
    for message in sent:
        ours.send(message)
    assert theirs.receive() == sent
    assert theirs.receive() == []
    ours.send(sent[0])
    assert theirs.wait() == sent[0]
    ours.close()
    assert theirs.wait() is None
    assert theirs.receive() == []
    assert theirs.closed
    theirs.close()


def test_half_a_message_is_kept_until_its_end_comes():
    raw, other = socket.socketpair()
    channel = Channel(other)
    line = encode(Probe(nonce=5))
    raw.sendall(line[:7])
    assert channel.receive() == []
    raw.sendall(line[7:] + encode(Probed(unfit="")))
    assert channel.receive() == [Probe(nonce=5), Probed(unfit="")]
    raw.close()
    channel.close()


def test_descriptors_come_with_the_message():
    ours, theirs = Channel.pair()
    reading, writing = os.pipe()
    ours.send(RunTask(task="x" * 100_000), [writing])
    os.close(writing)
    assert len(theirs.wait().task) == 100_000
    (fd,) = theirs.fds
    os.write(fd, b"through")
    assert os.read(reading, 10) == b"through"
    for number in (fd, reading):
        os.close(number)
    ours.close()
    theirs.close()
