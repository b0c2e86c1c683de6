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
from typing import TYPE_CHECKING

from harness.engine.forkserver_pool import MULTICAST_OFF, disk_errors
from harness.engine.host_messages import (
    Cleared,
    ClearLogs,
    FetchFiles,
    Files,
    Listen,
    Listening,
    StartPart,
)
from harness.engine.remote_hosts import JoinedHolders, Part, RemoteHost
from harness.engine.slots import Slots
from harness.errors import InfrastructureError
from harness.record.closing import ClosedByWith

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.engine.channel import Channel, Pollable
    from harness.engine.gang_spec import GangSpec
    from harness.engine.host_connection import Address


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
class HostPool(ClosedByWith):
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
        number, hosts = self._numbers[folder], self.hosts_of(spec)
        shares = zip(hosts, split(spec.world_size, len(hosts)), strict=True)
        parts = [Part(host=h, ranks=r, channel=h.attach(number, 0)) for h, r in shares if r]
        self._parts[folder] = parts
        ranks = [p.host.attach(number, 1 + i) for p in parts for i in range(len(p.ranks))]
        first = parts[0].host
        port = first.ask(Listen(gang=number), Listening).port
        for part in parts:
            part.host.control.send(self._order(spec, number, part, f"{first.address.ip}:{port}"))
        self._server.gangs += 1
        return self._server, JoinedHolders(parts), ranks

    def hosts_of(self, _spec: GangSpec) -> list[RemoteHost]:
        """Return the hosts over which a gang is spread."""
        return self.hosts

    def slots(self, per_device: int, devices: int) -> Slots:
        """Return the slots of a run, as of one host."""
        return Slots(per_device, devices)

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
