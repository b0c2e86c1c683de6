"""What starts gangs: `forkserver_pool.Pool` here, `host_pool.HostPool` on several hosts, and
`ray_pool.RayPool` on a Ray cluster. Torch-free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from harness.engine.channel import Channel, Pollable
    from harness.engine.gang_spec import GangSpec
    from harness.engine.messages import Message
    from harness.engine.slots import Slots


class Server(Protocol):
    """What forks holders. gangs: number of those that live."""

    log: Path
    gangs: int

    @property
    def channel(self) -> Connection:
        """Return the connection to it."""

    def poll(self) -> None:
        """Read what it has sent."""


class Connection(Protocol):
    """A connection. closed: the other end is closed, or lost."""

    @property
    def closed(self) -> bool:
        """Return whether the other end is closed, or lost."""

    @property
    def parts(self) -> tuple[Pollable, ...]:
        """Return what a selector waits for."""


class Holder(Connection, Protocol):
    """The connection to the processes that hold a gang's ranks."""

    @property
    def loss(self) -> str:
        """Return what it means that the other end is closed."""

    def send(self, message: Message) -> None:
        """Send a message. Raises OSError if the other end is closed."""

    def receive(self) -> list[Message]:
        """Return the messages that have arrived, without waiting."""

    def close(self) -> None:
        """Close the connection; the ranks then end."""


class GangStarter(Protocol):
    """What starts gangs."""

    def slots(self, per_device: int, devices: int) -> Slots:
        """Return the slots that its gangs take."""

    def new_folder(self) -> Path:
        """Create and return a folder for one gang."""

    def start(self, spec: GangSpec, folder: Path) -> tuple[Server, Holder, list[Channel]]:
        """Order a gang; return its server, the holder's channel, and each rank's channel."""

    def kill(self, pid: int) -> None:
        """Kill a holder that does not answer."""

    def fetch(self, folder: Path) -> None:
        """Bring the files of a gang's ranks into its folder."""

    def cleared(self, folder: Path) -> None:
        """Have the gang's logs begin anew where its ranks are."""
