"""Start gangs on several hosts from the controller, in place of `forkserver_pool.Pool`. Torch-free.

Each rank has a connection of its own to the controller, as on one machine it has a socket pair; so
the state machine of a gang is the same. Ranks write logs on their hosts: a gang's folder here gets
a copy when it is asked for.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.engine.forkserver_pool import MULTICAST_OFF, GangSpec, disk_errors
from harness.engine.host_connection import connect
from harness.engine.host_messages import (
    CONTROL,
    Attach,
    Cleared,
    ClearLogs,
    FetchFiles,
    Files,
    HostChannel,
    HostInfo,
    HostMessage,
    Listen,
    Listening,
    StartPart,
)
from harness.engine.messages import Channel, Exited, Message, Pollable, Swept
from harness.engine.source_hash import source_hash
from harness.errors import InfrastructureError
from harness.record.formatting import ranks_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from harness.engine.host_connection import Address

ANSWER_LIMIT = 30.0  # seconds for an agent to answer, over a slow link too
T = TypeVar("T")


class RemoteHost:
    """A host's agent, as the controller sees it."""

    def __init__(self, address: Address, token: bytes) -> None:
        """Connect. Raises InfrastructureError for a host that is not there, busy or different."""
        self.address, self._token = address, token
        sock = connect(address, token)
        sock.settimeout(ANSWER_LIMIT)
        self.control = HostChannel(sock)
        self.control.send(Attach(gang=0, place=CONTROL))
        info = self.answer(HostInfo)
        if info.error or info.code != source_hash():
            self.control.close()
            why = info.error or "it has other sources of harness or moe than this machine"
            raise InfrastructureError(f"host {address}: {why}")

    def attach(self, gang: int, place: int) -> Channel:
        """Return a connection that a holder or rank of this host will get."""
        sock = connect(self.address, self._token)
        HostChannel(sock).send(Attach(gang=gang, place=place))
        return Channel(sock)

    def answer(self, kind: type[T]) -> T:
        """Return the next message. Raises InfrastructureError if the host is gone."""
        message = self.control.wait()
        if not isinstance(message, kind):
            raise InfrastructureError(f"host {self.address} is gone")
        return message

    def ask(self, message: HostMessage, kind: type[T]) -> T:
        """Send a message and return the answer. Raises InfrastructureError if the host is gone."""
        try:
            self.control.send(message)
        except OSError as error:
            raise InfrastructureError(f"host {self.address} is gone: {error}") from error
        return self.answer(kind)


@dataclass(kw_only=True)
class Part:
    """The ranks of a gang on one host, and the channel of their holder."""

    host: RemoteHost
    ranks: range
    channel: Channel
    swept: Swept | None = None

    @property
    def is_lost(self) -> bool:
        """Return whether the holder's host, or its process, is gone before it was asked to end."""
        return self.channel.closed and self.swept is None


class JoinedHolders:
    """The holders of a gang on all its hosts, as one channel."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._was_swept = False

    @property
    def parts(self) -> tuple[Pollable, ...]:
        """Return what a selector waits for."""
        return tuple(part.channel for part in self._parts)

    @property
    def closed(self) -> bool:
        """Return whether a host is lost, or all have closed."""
        is_over = all(part.channel.closed for part in self._parts)
        return is_over or any(part.is_lost for part in self._parts)

    @property
    def loss(self) -> str:
        """Return which hosts are lost."""
        lost = [p for p in self._parts if p.is_lost]
        words = [f"host {p.host.address} with {ranks_text(list(p.ranks))} is gone" for p in lost]
        return "; ".join(words) or "the gang's holders ended"

    def send(self, message: Message) -> None:
        """Send to every holder that is there."""
        for part in self._parts:
            with contextlib.suppress(OSError):
                part.channel.send(message)

    def receive(self) -> list[Message]:
        """Return what has arrived: one Swept for all. Process ids of other hosts are left out."""
        messages: list[Message] = []
        for part in self._parts:
            for message in part.channel.receive():
                if isinstance(message, Swept):
                    part.swept = message
                elif isinstance(message, Exited):
                    messages.append(message)
        swept = [part.swept for part in self._parts if part.swept is not None]
        if len(swept) == len(self._parts) and not self._was_swept:
            self._was_swept = True
            messages.append(_joined(swept))
        return messages

    def close(self) -> None:
        """Close all; a holder whose channel closes ends its ranks."""
        for part in self._parts:
            part.channel.close()


def _joined(swept: list[Swept]) -> Swept:
    return Swept(
        orphans=sum(s.orphans for s in swept),
        survivors=[pid for s in swept for pid in s.survivors],
        memory_wait=max(s.memory_wait for s in swept),
    )


class HostServer:
    """What a local gang's forkserver is to it: the hosts' agents."""

    def __init__(self, folder: Path) -> None:
        self.channel = _Nothing()
        self.log = folder / "hosts.log"  # never written: agents keep their own
        self.gangs = 0

    def poll(self) -> None:
        """Do nothing: agents speak only when they are asked."""


@dataclass
class _Nothing:
    """A channel that never says anything."""

    closed: bool = False
    parts: tuple[Pollable, ...] = ()


@dataclass
class HostPool:
    """Owns the connections to all hosts of a run. Close it, or use it in a `with` statement."""

    addresses: tuple[Address, ...]
    token: bytes
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.hosts: list[RemoteHost] = []
        with disk_errors():
            self.folder = Path(tempfile.mkdtemp(prefix="harness-"))
        self._server = HostServer(self.folder)
        self._numbers: dict[Path, int] = {}
        self._parts: dict[Path, list[Part]] = {}
        try:
            self.hosts += [RemoteHost(address, self.token) for address in self.addresses]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> HostPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections: each host then ends every process of this run."""
        for host in self.hosts:
            host.control.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_folder(self) -> Path:
        """Create and return a folder for the copies of one gang's files."""
        number = len(self._numbers) + 1
        folder = self.folder / f"gang{number}"
        folder.mkdir()
        self._numbers[folder] = number
        return folder

    def start(
        self, spec: GangSpec, folder: Path
    ) -> tuple[HostServer, JoinedHolders, list[Channel]]:
        """Start a gang; return its holders as one channel, and each rank's channel.

        Raises InfrastructureError if a host is gone.
        """
        number = self._numbers[folder]
        shares = zip(self.hosts, split(spec.world_size, len(self.hosts)), strict=True)
        parts = [Part(host=h, ranks=r, channel=h.attach(number, 0)) for h, r in shares if r]
        self._parts[folder] = parts
        ranks = [p.host.attach(number, 1 + i) for p in parts for i in range(len(p.ranks))]
        first = parts[0].host
        port = first.ask(Listen(gang=number), Listening).port
        for part in parts:
            part.host.control.send(self._order(spec, number, part, f"{first.address.ip}:{port}"))
        self._server.gangs += 1
        return self._server, JoinedHolders(parts), ranks

    def _order(self, spec: GangSpec, number: int, part: Part, rendezvous: str) -> StartPart:
        return StartPart(
            gang=number,
            world_size=spec.world_size,
            first_rank=part.ranks.start,
            local_size=len(part.ranks),
            rendezvous=rendezvous,
            env={name: os.environ[name] for name in MULTICAST_OFF if name in os.environ},
            init=asdict(spec.init),
        )

    def kill(self, pid: int) -> None:
        """Do nothing: process ids are those of other hosts, whose holders end their ranks."""

    def fetch(self, folder: Path) -> None:
        """Copy what the ranks of a gang have written on the hosts that are there."""
        sizes = {path.name: path.stat().st_size for path in folder.glob("*.log")}
        message = FetchFiles(gang=self._numbers[folder], sizes=sizes)
        for part in self._parts.get(folder, ()):
            with contextlib.suppress(InfrastructureError):
                copy_into(folder, part.host.ask(message, Files).contents)

    def cleared(self, folder: Path) -> None:
        """Have the gang's logs begin anew on all hosts."""
        for part in self._parts.get(folder, ()):
            with contextlib.suppress(InfrastructureError):
                part.host.ask(ClearLogs(gang=self._numbers[folder]), Cleared)


def split(world_size: int, hosts: int) -> list[range]:
    """Return the ranks of each host: neighbours together, as evenly as it goes, the first most."""
    ends = [-(-world_size * i // hosts) for i in range(hosts + 1)]
    return [range(start, end) for start, end in itertools.pairwise(ends)]


def copy_into(folder: Path, contents: Mapping[str, tuple[int, str]]) -> None:
    """Write what a host has sent. contents: as of Files; a name's folders are left out."""
    for name, (start, text) in contents.items():
        path = folder / Path(name).name
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            file.write(base64.b64decode(text))
