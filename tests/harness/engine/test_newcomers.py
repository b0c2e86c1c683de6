"""Connections that have not said what they are for: their time, and how many there may be."""

from __future__ import annotations

import socket
import time

import pytest

from harness.engine import host_connection, newcomers
from harness.engine.host_connection import Address, listen
from harness.engine.newcomers import STRANGER, Newcomers

TOKEN = b"t" * 32


@pytest.fixture
def server():
    with listen(Address(ip="127.0.0.1", port=0)) as server:
        yield server


def strangers(server, waiting, count):
    """Connections that say nothing, accepted."""
    socks = []
    for _ in range(count):
        socks.append(socket.create_connection(server.getsockname()))
        waiting.take(server)
    return socks


def test_one_that_is_late_is_closed_and_there_is_a_time_to_look_again(server, monkeypatch):
    monkeypatch.setattr(host_connection, "HANDSHAKE_LIMIT", 0.05)
    lines = []
    waiting = Newcomers(TOKEN, lines.append)
    assert waiting.seconds_left is None
    (sock,) = strangers(server, waiting, 1)
    assert 0 < waiting.seconds_left <= 0.05
    assert waiting.arrived([]) == []
    assert lines == []
    time.sleep(waiting.seconds_left + 0.01)
    assert waiting.arrived([]) == []
    assert (waiting.waiting, lines) == ([], [STRANGER])
    assert len(sock.recv(64)) == 32  # the number to sign
    assert sock.recv(1) == b""
    sock.close()


def test_of_too_many_the_oldest_gives_way(server, monkeypatch):
    monkeypatch.setattr(newcomers, "MOST", 2)
    lines = []
    waiting = Newcomers(TOKEN, lines.append)
    socks = strangers(server, waiting, 3)
    assert len(waiting.waiting) == 2
    assert lines == [STRANGER]
    assert socks[0].recv(64, socket.MSG_WAITALL)[32:] == b""  # closed after its number
    waiting.close()
    for sock in socks:
        sock.close()
