"""What the processes of the engine say to each other: one frozen dataclass a message.

JSON Lines over socket pairs, which are made by the controller and handed down; nothing has a name
that another process could connect to, and nothing is ever unpickled from a channel.

    controller -> guardian     SpawnForkserver (with its channel), KillProcess
    controller -> forkserver   StartGang (with the channels of holder and ranks) ; back: Preloaded
    controller -> holder       SignalRanks, EndGang ; back: Forked, Exited, Swept
    controller -> rank         RunTask, Probe, CheckSums ; back: Ready, Said, Done, Failed, Probed
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    modules: list[str]  # asked for and found in sys.modules


@dataclass(frozen=True, kw_only=True)
class RankInit:
    """What every rank of a gang needs to begin."""

    device: str  # cpu, cuda
    transport: str  # gloo, nccl, staged
    executor: str  # "module:function", called with (case, context); "" = call the pickled function
    options: dict[str, Any] = field(default_factory=dict)
    group_timeout: float = 3600.0  # seconds; the time limit of a case is the controller's business


@dataclass(frozen=True, kw_only=True)
class StartGang:
    world_size: int
    folder: str  # private to the gang: rendezvous file, rank logs
    env: dict[str, str]
    unset: list[str]
    sys_path: list[str]
    init: dict[str, Any]  # a RankInit


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
    """All that the gang had started is gone, but for `survivors` (uninterruptible)."""

    orphans: int  # processes other than ranks that had to be killed
    survivors: list[int]
    memory_wait: float  # seconds until the devices had given the memory back


@dataclass(frozen=True, kw_only=True)
class RunTask:
    task: str  # a case id
    sum_all: bool = False  # sum all cached tensors afterwards, not only those that it used


@dataclass(frozen=True, kw_only=True)
class Probe:
    nonce: int


@dataclass(frozen=True, kw_only=True)
class CheckSums:
    """Answered by Probed: whether cached tensors have changed that no later case has used."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    rank: int


@dataclass(frozen=True, kw_only=True)
class Said:
    text: str


@dataclass(frozen=True, kw_only=True)
class Done:
    passed: bool
    result: dict[str, Any]
    poisoned: bool = False  # the task altered the rank's process: replace the gang
    unclear: bool = False  # the same, or an earlier task did; nothing was judged


@dataclass(frozen=True, kw_only=True)
class Failed:
    traceback: str


@dataclass(frozen=True, kw_only=True)
class Probed:
    unfit: str  # why the rank must not go on; empty when it may
    changed: bool = False  # because cached tensors changed, since nobody knows which task


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
    | Said
    | Done
    | Failed
    | Probed
)
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in Message.__args__}


def encode(message: Message) -> bytes:
    return json.dumps({"kind": type(message).__name__, **vars(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of one line. Raises ValueError for a line that is none."""
    data = json.loads(line)
    kind = _KINDS.get(data.pop("kind", ""))
    if kind is None:
        raise ValueError(f"no such message: {line[:80]!r}")
    message: Message = kind(**data)
    return message


class Channel:
    """One end of a socket pair. `closed` is true once the other end is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self.closed = False
        self.fds: list[int] = []  # file descriptors that came with messages

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        return cls(socket.socket(fileno=fd))

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair()
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self.closed = True
        self._sock.close()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Raises OSError when the other end is gone."""
        data = encode(message)
        if fds:
            sent = socket.send_fds(self._sock, [data], list(fds))
            data = data[sent:]
        self._sock.sendall(data)

    def receive(self) -> list[Message]:
        """Whatever has come, without waiting."""
        while not self.closed and self._read(socket.MSG_DONTWAIT):
            pass
        *lines, self._buffer = self._buffer.split(b"\n")
        return [decode(line) for line in lines]

    def wait(self) -> Message | None:
        """The next message; None once the other end is gone."""
        while b"\n" not in self._buffer:
            if not self._read(0):
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return decode(line)

    def _read(self, flags: int) -> bool:
        # Not socket.recv_fds: it drops the flags, and would block.
        room = socket.CMSG_LEN(_MAX_FDS * _INT.size)
        try:
            data, control, _, _ = self._sock.recvmsg(1 << 16, room, flags)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data, control = b"", []
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(payload) - len(payload) % _INT.size
                self.fds += [fd for (fd,) in _INT.iter_unpack(payload[:whole])]
        self._buffer += data
        self.closed = not data
        return bool(data)
