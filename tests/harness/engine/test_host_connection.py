"""Connections between hosts: addresses, tokens, and proof of the token at both ends."""

from __future__ import annotations

import select
import socket
import threading

import pytest

from harness.engine import host_connection
from harness.engine.host_connection import (
    Address,
    Handshake,
    connect,
    interface_of,
    listen,
    parse_address,
    read_token,
)
from harness.errors import InfrastructureError, UsageError

TOKEN = b"t" * 32


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(host_connection, "HANDSHAKE_LIMIT", 0.5)
    with listen(Address(ip="127.0.0.1", port=0)) as server:
        yield server


def accepted(server, token=TOKEN):
    """A thread that accepts one connection, and the list that gets it; None for a stranger."""
    taken = []

    def accept():
        handshake = Handshake(server, token)
        try:
            while not handshake.advance():
                select.select([handshake.sock], [], [])
        except OSError:
            handshake.sock.close()
        taken.append(None if handshake.sock.fileno() < 0 else handshake.sock)

    thread = threading.Thread(target=accept)
    thread.start()
    return thread, taken


def address_of(server):
    return Address(ip="127.0.0.1", port=server.getsockname()[1])


def test_both_ends_with_the_token_get_a_connection_that_notices_a_lost_host(server):
    thread, taken = accepted(server)
    ours = connect(address_of(server), TOKEN)
    thread.join()
    (theirs,) = taken
    for sock in (ours, theirs):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
    ours.sendall(b"x")
    assert theirs.recv(1) == b"x"
    ours.close()
    theirs.close()


def test_another_token_is_refused_at_both_ends(server):
    thread, taken = accepted(server, b"u" * 32)
    with pytest.raises(InfrastructureError, match=r"127\.0\.0\.1:\d+: it has another token"):
        connect(address_of(server), TOKEN)
    thread.join()
    assert taken == [None]


@pytest.mark.parametrize("sent", [b"", b"x" * 64, b"GET / HTTP/1.1\r\n\r\n"])
def test_a_stranger_is_dropped(server, sent):
    thread, taken = accepted(server)
    with socket.create_connection(server.getsockname()) as stranger:
        stranger.sendall(sent)
        stranger.shutdown(socket.SHUT_WR)
        thread.join(5)
    assert taken == [None]


def test_a_server_that_is_no_host_learns_nothing_of_the_token(server):
    def answer():
        sock, _ = server.accept()
        with sock:
            sock.sendall(b"n" * 32)
            heard.append(sock.recv(64))
            sock.sendall(heard[0][:32])  # the proof that it has just got, in place of its own

    heard = []
    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(InfrastructureError, match="another token, or is not a host"):
        connect(address_of(server), TOKEN)
    thread.join()
    assert TOKEN not in heard[0]


def test_a_host_that_is_not_there_is_named():
    with pytest.raises(InfrastructureError, match=r"host 127\.0\.0\.1:1 does not answer: Conn"):
        connect(Address(ip="127.0.0.1", port=1), TOKEN)


def test_a_port_that_is_taken_is_named(server):
    with pytest.raises(InfrastructureError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address al"):
        listen(address_of(server))


def test_an_address_has_an_interface():
    assert interface_of("127.0.0.1") == interface_of("127.0.0.2") == "lo"
    with pytest.raises(InfrastructureError, match=r"no interface of this host has .* 192\.0\.2\.1"):
        interface_of("192.0.2.1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.1", "give an IPv4 address and a port"),
        ("10.0.0.1:70000", "give an IPv4 address"),
        ("10.0.0.1:-1", "give an IPv4 address"),
        ("10.1:4000", "give an IPv4 address"),
        ("node1:4000", "not 'node1:4000'"),
        ("0.0.0.0:4000", "would listen on every network"),
    ],
)
def test_an_address_is_one_interfaces(text, message):
    assert parse_address("10.0.0.1:4000", "--listen") == Address(ip="10.0.0.1", port=4000)
    with pytest.raises(UsageError, match=message) as error:
        parse_address(text, "--listen")
    assert str(error.value).startswith("--listen")


def test_a_token_is_its_owners_alone(tmp_path):
    path = tmp_path / "token"
    with pytest.raises(UsageError, match=r"No such file or directory; make one with: \(umask 077"):
        read_token(path)
    path.touch(mode=0o600)
    path.write_bytes(b"short\n")
    with pytest.raises(UsageError, match="has 5 bytes, too few"):
        read_token(path)
    path.write_bytes(TOKEN + b"\n")
    assert read_token(path) == TOKEN
    path.chmod(0o640)
    with pytest.raises(UsageError, match="others may read it; chmod 600"):
        read_token(path)


def test_a_controller_s_own_proof_does_not_make_a_stranger_a_host(server):
    """A stranger asks a second connection of the controller for what the first wants to see."""
    refused = []

    def controller():
        with pytest.raises(InfrastructureError, match="another token") as caught:
            connect(address_of(server), TOKEN).close()
        refused.append(caught)

    threads = [threading.Thread(target=controller) for _ in range(2)]
    for thread in threads:
        thread.start()
    (first, _), (second, _) = server.accept(), server.accept()
    with first, second:
        first.sendall(b"n" * 32)
        asked = first.recv(64, socket.MSG_WAITALL)[32:]  # what a host would have to sign
        second.sendall(asked)
        first.sendall(second.recv(64, socket.MSG_WAITALL)[:32])
        for thread in threads:
            thread.join(5)
    assert len(refused) == 2
