"""The agents of other hosts, and a gang's holders there, seen from the controller. Torch-free."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from harness.engine.channel import Channel
from harness.engine.host_connection import connect
from harness.engine.host_messages import CONTROL, Attach, HostChannel, HostInfo
from harness.engine.messages import Exited, Forked, NotStarted, Swept
from harness.engine.source_hash import source_hash
from harness.errors import InfrastructureError
from harness.record.formatting import ranks_text

if TYPE_CHECKING:
    from harness.engine.channel import Pollable
    from harness.engine.host_connection import Address
    from harness.engine.host_messages import HostMessage
    from harness.engine.messages import Message

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
            reason = info.error or "it has other sources of harness or moe than this machine"
            raise InfrastructureError(f"host {address}: {reason}")

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
    refusal: str = ""  # why the host started no ranks

    @property
    def is_lost(self) -> bool:
        """Return whether the holder's host, or its process, is gone before it was asked to end."""
        return self.channel.closed and self.swept is None


class JoinedHolders:
    """The holders of a gang on all its hosts, as one channel."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._forked = 0  # holders that have forked their ranks
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
        words = [_loss_of(part) for part in lost]
        return "; ".join(words) or "the gang's holders ended"

    def send(self, message: Message) -> None:
        """Send to every holder that is there."""
        for part in self._parts:
            with contextlib.suppress(OSError):
                part.channel.send(message)

    def receive(self) -> list[Message]:
        """Return what has arrived: one Forked and one Swept for all.

        Process ids of other hosts are left out: the Forked has none.
        """
        messages: list[Message] = []
        for part in self._parts:
            for message in part.channel.receive():
                if isinstance(message, Forked):
                    self._forked += 1
                    if self._forked == len(self._parts):
                        messages.append(Forked(holder=0, ranks=[]))
                elif isinstance(message, Swept):
                    part.swept = message
                elif isinstance(message, NotStarted):
                    part.refusal = message.reason
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


def _loss_of(part: Part) -> str:
    name = f"host {part.host.address}"
    if part.refusal:
        return f"{name} could not start {ranks_text(list(part.ranks))}: {part.refusal}"
    return f"{name} with {ranks_text(list(part.ranks))} is gone"


def _joined(swept: list[Swept]) -> Swept:
    return Swept(
        orphans=sum(s.orphans for s in swept),
        survivors=[pid for s in swept for pid in s.survivors],
        memory_wait=max(s.memory_wait for s in swept),
    )
