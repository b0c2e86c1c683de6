"""Channels that carry messages between the processes of the engine, as JSON Lines.

A channel is one end of a socket pair that the controller creates and passes on: no such socket has
a name to which another process could connect. Only the holder and the ranks of another host have
connections, see `harness.engine.host_connection`.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from harness.engine.messages import KINDS, Message, encode, message_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

M = TypeVar("M")

_MAX_FDS = 200  # the kernel's own limit is 253 a message
_INT = struct.Struct("i")


class Pollable(Protocol):
    """What a selector can wait for, until it is closed."""

    closed: bool

    def fileno(self) -> int: ...


class LineChannel(Generic[M]):
    """One end of a connection that carries messages of some kinds.

    `closed`: the other end is closed, or lost.
    """

    kinds: ClassVar[Mapping[str, Any]]  # name -> dataclass of the messages M
    loss = "the gang's holder or forkserver ended"  # what it means if the other end is closed

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self.closed = False
        self.fds: list[int] = []  # file descriptors that came with messages

    @property
    def parts(self) -> tuple[Pollable, ...]:
        """Return what a selector waits for."""
        return (self,)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self.closed = True
        self._sock.close()

    def detach(self) -> int:
        """Return the file descriptor, which is the caller's from now on."""
        self.closed = True
        return self._sock.detach()

    def send(self, message: M, fds: Sequence[int] = ()) -> None:
        """Send a message with file descriptors. Raises OSError if the other end is closed."""
        data = encode(message)
        if fds:
            sent = socket.send_fds(self._sock, [data], list(fds))
            data = data[sent:]
        self._sock.sendall(data)

    def receive(self) -> list[M]:
        """Return the messages that have arrived, without waiting.

        Raises ValueError for a line that is not one of the kinds.
        """
        while not self.closed and self._read(socket.MSG_DONTWAIT):
            pass
        *lines, self._buffer = self._buffer.split(b"\n")
        return [message_of(line, self.kinds) for line in lines]

    def wait(self) -> M | None:
        """Wait for the next message; return None once the other end is closed.

        Raises ValueError for a line that is not one of the kinds.
        """
        while b"\n" not in self._buffer:
            if not self._read(0):
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: M = message_of(line, self.kinds)
        return message

    def _read(self, flags: int) -> bool:
        # socket.recv_fds ignores its flags and would block.
        room = socket.CMSG_LEN(_MAX_FDS * _INT.size)
        try:
            data, control, _, _ = self._sock.recvmsg(1 << 16, room, flags)
        except BlockingIOError:
            return False
        except OSError:  # reset, or its host has not answered for too long
            data, control = b"", []
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                num_bytes = len(payload) - len(payload) % _INT.size
                self.fds += [fd for (fd,) in _INT.iter_unpack(payload[:num_bytes])]
        self._buffer += data
        self.closed = not data
        return bool(data)


class Channel(LineChannel[Message]):
    """One end of a socket pair, or of a connection between hosts."""

    kinds = KINDS

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        local, remote = socket.socketpair()
        return cls(local), cls(remote)
