"""Messages between the processes of the engine: one frozen dataclass each.

They are sent as JSON Lines over socket pairs that the controller creates and passes on: no such
socket has a name to which another process could connect. Only the holder and the ranks of another
host have connections, see `harness.engine.host_connection`. Nothing is unpickled from a channel.

    controller -> guardian     SpawnForkserver (with its channel), KillProcess
    controller -> forkserver   StartGang (with the channels of holder and ranks) ; back: Preloaded
    controller -> holder       SignalRanks, EndGang ; back: Forked, Exited, Swept
    controller -> rank         RunTask, Probe, CheckSums ; back: Ready, Status, Done, Failed, Probed
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

M = TypeVar("M")

_MAX_FDS = 200  # the kernel's own limit is 253 a message
_INT = struct.Struct("i")


@dataclass(frozen=True, kw_only=True)
class SpawnForkserver:
    env: dict[str, str]  # additions to the guardian's environment
    unset: list[str]
    sys_path: list[str]
    preload: list[str]  # modules to import before the first fork
    log: str


@dataclass(frozen=True, kw_only=True)
class KillProcess:
    pid: int  # a holder that does not answer


@dataclass(frozen=True, kw_only=True)
class Preloaded:
    pid: int
    seconds: float
    threads: int  # OS threads of the forkserver: one, or forking is unsafe
    modules: list[str]  # requested modules that are in sys.modules


@dataclass(frozen=True, kw_only=True)
class RankInit:
    """What every rank of a gang needs to begin."""

    device: str  # cpu, cuda
    transport: str  # gloo, nccl, staged
    executor: str  # "module:function", called with (case, context); "" = call the pickled function
    options: dict[str, Any] = field(default_factory=dict)
    group_timeout: float = 3600.0  # seconds; the controller enforces the time limit of a case
    ranks_at_once: int = 1  # on this machine, of all gangs: they share its cores
    devices: list[int] = field(default_factory=list)  # for ranks in turn; empty: all of them
    device_ranks: int = 1  # ranks of all gangs that may use one of these devices at once
    # Address and port of the store of a gang on several hosts; "": a file in the gang's folder.
    rendezvous: str = ""
    store_fd: int = -1  # of the socket on which the store's rank listens; -1: of another rank


@dataclass(frozen=True, kw_only=True)
class StartGang:
    world_size: int
    folder: str  # private to the gang: rendezvous file, rank logs
    env: dict[str, str]
    unset: list[str]
    sys_path: list[str]
    init: dict[str, Any]  # a RankInit
    first_rank: int = 0  # of those on this host
    local_size: int = 0  # ranks on this host; 0: all


@dataclass(frozen=True, kw_only=True)
class Forked:
    holder: int
    ranks: list[int]  # process ids


@dataclass(frozen=True, kw_only=True)
class Exited:
    rank: int
    status: int  # as os.waitstatus_to_exitcode gives it: -9 is SIGKILL


@dataclass(frozen=True, kw_only=True)
class SignalRanks:
    number: int


@dataclass(frozen=True, kw_only=True)
class EndGang:
    pass


@dataclass(frozen=True, kw_only=True)
class Swept:
    """Every process of the gang has ended, except `survivors` (in uninterruptible calls)."""

    orphans: int  # processes other than ranks that were killed
    survivors: list[int]
    memory_wait: float  # seconds until the memory of the devices was released


@dataclass(frozen=True, kw_only=True)
class RunTask:
    task: str  # a case id
    sum_all: bool = False  # sum all cached tensors afterwards, not only those that it used


@dataclass(frozen=True, kw_only=True)
class Probe:
    nonce: int


@dataclass(frozen=True, kw_only=True)
class CheckSums:
    """Ask whether cached tensors have changed that no later case used; the answer is Probed."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    rank: int


@dataclass(frozen=True, kw_only=True)
class Status:
    text: str


@dataclass(frozen=True, kw_only=True)
class Done:
    passed: bool
    result: dict[str, Any]
    poisoned: bool = False  # the task altered the rank's process: replace the gang
    unclear: bool = False  # this task or an earlier one altered it; nothing was judged


@dataclass(frozen=True, kw_only=True)
class Failed:
    traceback: str


@dataclass(frozen=True, kw_only=True)
class Probed:
    unfit: str  # why the rank must not be used again; empty if it can be
    changed: bool = False  # whether cached tensors changed, by an unknown task


Message = (
    SpawnForkserver
    | KillProcess
    | Preloaded
    | StartGang
    | Forked
    | Exited
    | SignalRanks
    | EndGang
    | Swept
    | RunTask
    | Probe
    | CheckSums
    | Ready
    | Status
    | Done
    | Failed
    | Probed
)
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in Message.__args__}


class Pollable(Protocol):
    """What a selector can wait for, until it is closed."""

    closed: bool

    def fileno(self) -> int: ...


def encode(message: object) -> bytes:
    """Return a message as one line of JSON."""
    return json.dumps({"kind": type(message).__name__, **vars(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message of one line. Raises ValueError if the line is not a message."""
    data = json.loads(line)
    kind = _KINDS.get(data.pop("kind", ""))
    if kind is None:
        raise ValueError(f"unknown message: {line[:80]!r}")
    message: Message = kind(**data)
    return message


class LineChannel(Generic[M]):
    """One end of a connection that carries messages. `closed`: the other end is closed, or lost."""

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

    def decode(self, line: bytes) -> M:
        """Return the message of one line. Raises ValueError if the line is not a message."""
        raise NotImplementedError

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
        """Return the messages that have arrived, without waiting."""
        while not self.closed and self._read(socket.MSG_DONTWAIT):
            pass
        *lines, self._buffer = self._buffer.split(b"\n")
        return [self.decode(line) for line in lines]

    def wait(self) -> M | None:
        """Wait for the next message; return None once the other end is closed."""
        while b"\n" not in self._buffer:
            if not self._read(0):
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return self.decode(line)

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

    def decode(self, line: bytes) -> Message:
        """Return the message of one line. Raises ValueError if the line is not a message."""
        return decode(line)

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        local, remote = socket.socketpair()
        return cls(local), cls(remote)
