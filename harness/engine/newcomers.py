"""Connections to a host's agent that have not said yet what they are for. Torch-free.

Each has a few seconds to show the token and to say what it is for. None of them is waited for, so
that one which says nothing holds up no other, and no run.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from harness.engine import host_connection
from harness.engine.host_connection import Handshake
from harness.engine.host_messages import Attach, HostChannel

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection

MOST = 64  # at once; one more, and the oldest is closed
STRANGER = "a connection without the token was closed"
NO_PURPOSE = "a connection that did not say what it is for was closed"


class Newcomer:
    """One connection, from its start to its first message."""

    def __init__(self, server: socket.socket, token: bytes) -> None:
        """Accept a connection of the server's. Raises OSError if it is gone again."""
        self._handshake = Handshake(server, token)
        self._channel: HostChannel | None = None
        self.until = time.monotonic() + host_connection.HANDSHAKE_LIMIT

    def fileno(self) -> int:
        return self._handshake.sock.fileno() if self._channel is None else self._channel.fileno()

    @property
    def failure(self) -> str:
        """Return why it is closed if it gets no further."""
        return STRANGER if self._channel is None else NO_PURPOSE

    def advance(self) -> tuple[Attach, HostChannel] | None:
        """Read what has arrived; return the connection and what it is for once it has said so.

        Raises OSError or ValueError if it is not, or no longer, a controller's.
        """
        if self._channel is None:
            if not self._handshake.advance():
                return None
            self._channel = HostChannel(self._handshake.sock)
        messages = self._channel.receive()
        if self._channel.closed or len(messages) > 1:
            raise ConnectionResetError(self.failure)
        if not messages:
            return None
        if not isinstance(messages[0], Attach):
            raise ValueError(self.failure)
        return messages[0], self._channel

    def close(self) -> None:
        self._handshake.sock.close()


class Newcomers:
    """All of them. say: is told of each that is closed."""

    def __init__(self, token: bytes, say: Callable[[str], None]) -> None:
        self._token, self._say = token, say
        self.waiting: list[Newcomer] = []

    @property
    def seconds_left(self) -> float | None:
        """Return the time to the first deadline; None if there is none."""
        deadlines = [newcomer.until - time.monotonic() for newcomer in self.waiting]
        return max(0.0, min(deadlines)) if deadlines else None

    def take(self, server: socket.socket) -> None:
        """Accept a connection, if it is still there."""
        with contextlib.suppress(OSError):
            self.waiting.append(Newcomer(server, self._token))
        if len(self.waiting) > MOST:
            self._drop(self.waiting[0])

    def arrived(self, ready: Collection[object]) -> list[tuple[Attach, HostChannel]]:
        """Return those that have said what they are for; close those that failed or are late."""
        arrived = []
        for newcomer in [n for n in self.waiting if n in ready]:
            try:
                attached = newcomer.advance()
            except (OSError, ValueError, TypeError):
                self._drop(newcomer)
                continue
            if attached is not None:
                self.waiting.remove(newcomer)
                arrived.append(attached)
        for newcomer in [n for n in self.waiting if n.until <= time.monotonic()]:
            self._drop(newcomer)
        return arrived

    def close(self) -> None:
        for newcomer in self.waiting:
            newcomer.close()
        self.waiting.clear()

    def _drop(self, newcomer: Newcomer) -> None:
        self.waiting.remove(newcomer)
        newcomer.close()
        self._say(newcomer.failure)
