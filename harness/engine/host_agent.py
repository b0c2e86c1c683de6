"""Serve controllers on one host: start the ranks of gangs that are here. Torch-free.

One run at a time. Its connection of control is the run's life: when that closes, or the
controller's host no longer answers, every process that the run started here is ended.
"""

from __future__ import annotations

import base64
import contextlib
import selectors
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.engine.forkserver_pool import Pool
from harness.engine.gang_spec import GangSpec, HostPart
from harness.engine.host_connection import interface_of
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
from harness.engine.job_run import preload_of
from harness.engine.messages import NotStarted, encode
from harness.engine.newcomers import Newcomers
from harness.engine.run_options import RunOptions
from harness.engine.source_hash import source_hash

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.engine.host_connection import Address

MOST_BYTES = 1 << 20  # of a file that a controller is sent at once
EXECUTOR = RunOptions.executor  # the only function that ranks run for a controller


@dataclass(kw_only=True)
class LocalPart:
    """The ranks of a gang that are on this host.

    places: connections by Attach.place. order: to start the ranks, until all connections are here.
    """

    folder: Path
    places: dict[int, socket.socket] = field(default_factory=dict)
    store: socket.socket | None = None
    order: StartPart | None = None


class Session:
    """One controller's run on this host."""

    def __init__(self, control: HostChannel, address: Address) -> None:
        self.control, self._address = control, address
        self.pool = Pool()
        self._gangs: dict[int, LocalPart] = {}

    def attach(self, order: Attach, sock: socket.socket) -> None:
        """Keep a connection until its holder or rank is started."""
        gang = self._gang(order.gang)
        gang.places[order.place] = sock
        self._start(gang)

    def obey(self) -> None:
        """Do what the controller has asked for."""
        for message in self.control.receive():
            answer = self._answer(message)
            if answer is not None:
                with contextlib.suppress(OSError):  # it is gone, which the next receive tells
                    self.control.send(answer)

    def close(self) -> None:
        """End every process of the run."""
        for gang in self._gangs.values():
            for sock in (*gang.places.values(), *filter(None, [gang.store])):
                sock.close()
        self.control.close()
        self.pool.close()

    def _gang(self, number: int) -> LocalPart:
        if number not in self._gangs:
            self._gangs[number] = LocalPart(folder=self.pool.new_folder())
        return self._gangs[number]

    def _answer(self, message: HostMessage) -> HostMessage | None:
        if isinstance(message, Listen):
            return self._listen(self._gang(message.gang))
        if isinstance(message, StartPart):
            self._gang(message.gang).order = message
            self._start(self._gang(message.gang))
        elif isinstance(message, ClearLogs):
            for path in self._gang(message.gang).folder.glob("*.log"):
                path.write_bytes(b"")  # ranks append, so new output starts at 0
            return Cleared()
        elif isinstance(message, FetchFiles):
            return Files(contents=contents(self._gang(message.gang).folder, message.sizes))
        return None

    def _listen(self, gang: LocalPart) -> Listening:
        """Bind the gang's store to this host's address, at a port that is free."""
        gang.store = socket.create_server((self._address.ip, 0))
        return Listening(port=gang.store.getsockname()[1])

    def _start(self, gang: LocalPart) -> None:
        """Start the ranks that are asked for once each has its connection to the controller.

        What was sent first over one connection may arrive last over another.
        """
        order = gang.order
        if order is None or not {*range(order.local_size + 1)} <= gang.places.keys():
            return
        gang.order = None
        socks = [gang.places.pop(place) for place in range(order.local_size + 1)]
        socks += [gang.store] if gang.store is not None else []
        gang.store = None
        try:
            fds = [sock.fileno() for sock in socks]
            self.pool.order(spec_of(order), gang.folder, fds, self._part(order))
        except Exception as error:  # whatever it is, the controller waits for ranks
            with contextlib.suppress(OSError):
                reason = f"{type(error).__name__}: {error}"
                socks[0].sendall(encode(NotStarted(reason=reason)))
        finally:
            for sock in socks:
                sock.close()

    def _part(self, order: StartPart) -> HostPart:
        interface = interface_of(self._address.ip)
        return HostPart(
            first_rank=order.first_rank,
            local_size=order.local_size,
            rendezvous=order.rendezvous,
            env={**order.env, "GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface},
        )


def spec_of(order: StartPart) -> GangSpec:
    """Return the kind of gang that is asked for; its ranks run the harness's own cases only.

    A host writes no tensors and no pictures: nobody would collect them.
    """
    init = order.init
    options = {**init["options"], "save_tensors": None, "pictures": None}
    return GangSpec(
        world_size=order.world_size,
        device="cpu",
        transport="gloo",
        executor=EXECUTOR,
        options=options,
        ranks_at_once=init["ranks_at_once"],
        preload=preload_of(EXECUTOR),
    )


def contents(folder: Path, sizes: dict[str, int]) -> dict[str, tuple[int, str]]:
    """Return the files of a gang's folder: of a log what it has grown by, of others all."""
    files = {}
    for path in folder.iterdir():
        if path.suffix not in (".log", ".jsonl") or not path.is_file():
            continue
        data = path.read_bytes()
        start = sizes.get(path.name, 0) if path.suffix == ".log" else 0
        start = 0 if start > len(data) else max(start, len(data) - MOST_BYTES)
        files[path.name] = (start, base64.b64encode(data[start:]).decode())
    return files


class Agent:
    """Accept controllers, one at a time. say: is told of each run, and of strangers."""

    def __init__(
        self, server: socket.socket, address: Address, token: bytes, say: Callable[[str], None]
    ) -> None:
        self._server, self._address, self._say = server, address, say
        server.setblocking(False)
        self._newcomers = Newcomers(token, say)
        self.session: Session | None = None
        self.ended = 0  # runs

    def serve(self, runs: int | None = None) -> None:
        """Serve so many runs, or until an exception, such as of a signal, ends it."""
        try:
            while runs is None or self.ended < runs:
                self.step()
        finally:
            self.close()

    def close(self) -> None:
        """End the run, if there is one, and close connections that are not part of one yet."""
        self._newcomers.close()
        if self.session is not None:
            self.session.close()
            self.session = None

    def step(self) -> None:
        """Wait for one thing or more, and deal with them. Nothing else is waited for."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            if self.session is not None:
                selector.register(self.session.control, selectors.EVENT_READ)
            for newcomer in self._newcomers.waiting:
                selector.register(newcomer, selectors.EVENT_READ)
            events = selector.select(self._newcomers.seconds_left)
        ready = [key.fileobj for key, _ in events]
        for order, channel in self._newcomers.arrived(ready):
            self._attach(order, channel)
        if self.session is not None and self.session.control in ready:
            self._obey(self.session)
        if self._server in ready:
            self._newcomers.take(self._server)

    def _obey(self, session: Session) -> None:
        try:
            session.obey()
        except (ValueError, KeyError, TypeError) as error:  # not a message of this version
            self._say(f"the controller sent what is no message: {error}")
            session.control.close()
        if session.control.closed:
            session.close()
            self.session = None
            self.ended += 1
            self._say("the run has ended")

    def _attach(self, order: Attach, channel: HostChannel) -> None:
        """Give a connection that has the token to what it is for."""
        if order.place == CONTROL:
            self._begin(channel)
        elif self.session is None:
            channel.close()
        else:
            self.session.attach(order, socket.socket(fileno=channel.detach()))

    def _begin(self, control: HostChannel) -> None:
        with contextlib.suppress(OSError):  # it is gone, which the next receive tells
            if self.session is not None:
                control.send(HostInfo(code=source_hash(), error="it is busy with another run"))
                control.close()
                return
            self.session = Session(control, self._address)
            self._say("a run has begun")
            control.send(HostInfo(code=source_hash()))
