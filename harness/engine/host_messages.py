"""Messages between a controller and the agent of a host: one frozen dataclass each. Torch-free.

JSON Lines over an authenticated connection; nothing is unpickled or evaluated. Holders and ranks
of a host then use connections of their own, with the messages of `harness.engine.messages`.

    controller -> agent   Attach, Listen, StartPart, ClearLogs, FetchFiles
    agent -> controller   HostInfo, Listening, Cleared, Files
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.engine.channel import LineChannel

CONTROL = -1  # place of the connection on which all else is said


@dataclass(frozen=True, kw_only=True)
class Attach:
    """The first message of a connection: what it is for."""

    gang: int
    place: int  # CONTROL, 0 for the holder, or 1 + the number of a rank on this host


@dataclass(frozen=True, kw_only=True)
class HostInfo:
    """The answer to Attach on the connection of control. error: why this host cannot serve."""

    code: str  # hash of the sources of harness and moe
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Ask for a port at which the gang's first rank will listen; the answer is Listening."""

    gang: int


@dataclass(frozen=True, kw_only=True)
class Listening:
    port: int


@dataclass(frozen=True, kw_only=True)
class StartPart:
    """Start the ranks of a gang that are on this host; their connections are attached already."""

    gang: int
    world_size: int
    first_rank: int
    local_size: int
    rendezvous: str  # address and port of the store
    env: dict[str, str]  # additions to the agent's environment
    init: dict[str, Any]  # a RankInit


@dataclass(frozen=True, kw_only=True)
class ClearLogs:
    gang: int


@dataclass(frozen=True, kw_only=True)
class Cleared:
    pass


@dataclass(frozen=True, kw_only=True)
class FetchFiles:
    """Ask for what the gang's ranks have written; the answer is Files."""

    gang: int
    sizes: dict[str, int]  # bytes that the controller has of each log


@dataclass(frozen=True, kw_only=True)
class Files:
    """contents: name -> (first byte, base64). All of a file, or what a log has grown by."""

    contents: dict[str, tuple[int, str]]


HostMessage = (
    Attach | HostInfo | Listen | Listening | StartPart | ClearLogs | Cleared | FetchFiles | Files
)
KINDS: dict[str, Any] = {kind.__name__: kind for kind in HostMessage.__args__}


class HostChannel(LineChannel[HostMessage]):
    """One end of a connection of control."""

    kinds = KINDS
