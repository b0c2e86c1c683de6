"""Connect controller and hosts: TCP connections that both ends authenticate. Torch-free.

Each end proves that it has the token, without sending it: it returns the keyed hash of a number
that the other end has just drawn. What follows is neither encrypted nor signed. A host that
disappears without a word is noticed by the kernel: both ends then see a closed connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import secrets
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import InfrastructureError, UsageError, reason_of

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

GONE_AFTER = 7  # seconds without an answer of the other host's kernel
HANDSHAKE_LIMIT = 3.0  # seconds
LOOPBACK = "127.0.0.1"
_NONCE = 32  # bytes
_LEAST_TOKEN = 16  # bytes


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a host listens: one interface's address, never all of them."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


def parse_address(text: str, option: str) -> Address:
    """Read `10.0.0.1:4000`. Raises UsageError for anything else, and for 0.0.0.0."""
    ip, colon, port = text.rpartition(":")
    try:
        packed = socket.inet_aton(ip) if ip.count(".") == 3 else b""
    except OSError:
        packed = b""
    if not (colon and packed and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        rule = "give an IPv4 address and a port, as 10.0.0.1:4000"
        raise UsageError(f"{option}: {rule}, not {text!r}")
    if not any(packed):
        raise UsageError(f"{option} {text!r} would listen on every network: give one address")
    return Address(ip=ip, port=int(port))


def read_token(path: Path) -> bytes:
    """Return the token in a file that only its owner can read. Raises UsageError."""
    make = f"make one with: (umask 077; openssl rand -hex 32 > {path})"
    try:
        mode, token = path.stat().st_mode, path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"--token-file {str(path)!r}: {reason_of(error)}; {make}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"--token-file {str(path)!r}: others may read it; chmod 600 {path}")
    if len(token) < _LEAST_TOKEN:
        raise UsageError(f"--token-file {str(path)!r} has {len(token)} bytes, too few; {make}")
    return token


def input_token(file: TextIO) -> bytes:
    """Return the token in the first line of an agent's input. Raises UsageError."""
    token = file.readline().strip().encode()
    if len(token) < _LEAST_TOKEN:
        raise UsageError(f"--token-file -: the input's first line has {len(token)} bytes, too few")
    return token


def listen(address: Address) -> socket.socket:
    """Return a socket that listens on this address only. Raises InfrastructureError."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((address.ip, address.port))
    except OSError as error:
        server.close()
        raise InfrastructureError(f"cannot listen on {address}: {reason_of(error)}") from error
    server.listen(64)
    return server


def connect(address: Address, token: bytes) -> socket.socket:
    """Return a connection to a host that has the token. Raises InfrastructureError."""
    try:
        sock = socket.create_connection((address.ip, address.port), timeout=HANDSHAKE_LIMIT)
    except OSError as error:
        raise InfrastructureError(f"host {address} does not answer: {reason_of(error)}") from error
    try:
        their_nonce, nonce = _read(sock, _NONCE), secrets.token_bytes(_NONCE)
        sock.sendall(_proof(token, b"controller", their_nonce) + nonce)
        is_known = hmac.compare_digest(_read(sock, _NONCE), _proof(token, b"host", nonce))
    except OSError:
        is_known = False
    if not is_known:
        sock.close()
        reason = "it has another token, or is not a host of this harness"
        raise InfrastructureError(f"host {address}: {reason}")
    return _watched(sock)


class Handshake:
    """A host's end of a connection whose other end has not shown the token yet. Never waits."""

    def __init__(self, server: socket.socket, token: bytes) -> None:
        """Accept a connection of the server's. Raises OSError if it is gone again."""
        self.sock, _ = server.accept()
        self._token, self._mine, self._data = token, secrets.token_bytes(_NONCE), b""
        self.sock.setblocking(False)
        try:
            self.sock.send(self._mine)  # the first bytes of a connection fit into its buffer
        except OSError:
            self.sock.close()
            raise

    def advance(self) -> bool:
        """Read what has arrived; return whether the other end has shown the token.

        Raises ConnectionError if it closed the connection or has another token.
        """
        with contextlib.suppress(BlockingIOError):
            self._data += _received(self.sock, 2 * _NONCE - len(self._data))
        if len(self._data) < 2 * _NONCE:
            return False
        proof, their_nonce = self._data[:_NONCE], self._data[_NONCE:]
        if not hmac.compare_digest(proof, _proof(self._token, b"controller", self._mine)):
            raise ConnectionRefusedError("the other end has another token")
        self.sock.send(_proof(self._token, b"host", their_nonce))
        _watched(self.sock)
        return True


def interface_of(ip: str) -> str:
    """Return the name of the interface that has an address. Raises InfrastructureError."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == ip for address in addresses):
            return str(name)
    if ip != LOOPBACK and ipaddress.ip_address(ip).is_loopback:
        return interface_of(LOOPBACK)  # which has all of 127.0.0.0/8
    raise InfrastructureError(f"no interface of this host has the address {ip}")


def _proof(token: bytes, role: bytes, nonce: bytes) -> bytes:
    """Return what shows the token. role: so that no end can be made to answer for the other."""
    return hmac.new(token, role + nonce, hashlib.sha256).digest()


def _read(sock: socket.socket, count: int) -> bytes:
    """Return exactly this many bytes. Raises OSError if the other end closes before."""
    data = b""
    while len(data) < count:
        data += _received(sock, count - len(data))
    return data


def _received(sock: socket.socket, limit: int) -> bytes:
    """Return what the socket gives, at most so many bytes. Raises OSError if it is closed."""
    data = sock.recv(limit)
    if not data:
        raise ConnectionResetError("the other end has closed the connection")
    return data


def _watched(sock: socket.socket) -> socket.socket:
    """Return the socket, blocking, with a kernel that asks whether the other host is there."""
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 2),
        (socket.TCP_KEEPINTVL, 1),
        (socket.TCP_KEEPCNT, GONE_AFTER - 2),
        (socket.TCP_USER_TIMEOUT, GONE_AFTER * 1000),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock
