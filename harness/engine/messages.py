"""Messages between the processes of the engine: one frozen dataclass each.

They are sent as JSON Lines (`harness.engine.channel`), and nothing is unpickled.

    controller -> guardian     SpawnForkserver (with its channel), KillProcess
    controller -> forkserver   StartGang (with the channels of holder and ranks) ; back: Preloaded
    controller -> holder       SignalRanks, EndGang ; back: Forked, Exited, Swept, or NotStarted
    controller -> rank         RunTask, Probe, CheckSums ; back: Ready, Status, Done, Failed, Probed
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


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
class NotStarted:
    """The agent of a host says in its holder's place that it started none."""

    reason: str


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
    | NotStarted
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
KINDS: dict[str, Any] = {kind.__name__: kind for kind in Message.__args__}


def encode(message: object) -> bytes:
    """Return a message as one line of JSON."""
    return json.dumps({"kind": type(message).__name__, **vars(message)}).encode() + b"\n"


def message_of(line: bytes, kinds: Mapping[str, Any]) -> Any:
    """Return the message of one line. Raises ValueError if the line is none of these kinds."""
    data = json.loads(line)
    kind = kinds.get(data.pop("kind", "")) if isinstance(data, dict) else None
    if kind is None:
        raise ValueError(f"unknown message: {line[:80]!r}")
    try:
        return kind(**data)
    except TypeError as error:
        raise ValueError(str(error)) from error
