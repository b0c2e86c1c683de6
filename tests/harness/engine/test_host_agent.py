"""The agent of a host, in this process: what it answers, and whom it refuses."""

from __future__ import annotations

import base64
import socket
import threading
from types import SimpleNamespace

import pytest

from harness.engine import host_agent, host_connection
from harness.engine.channel import Channel
from harness.engine.gang_spec import PRELOAD
from harness.engine.host_agent import Agent, contents, spec_of
from harness.engine.host_connection import Address, connect, listen
from harness.engine.host_messages import (
    CONTROL,
    Attach,
    Cleared,
    ClearLogs,
    FetchFiles,
    Files,
    HostChannel,
    HostInfo,
    Listen,
    Listening,
    StartPart,
)
from harness.engine.host_pool import HostPool
from harness.engine.messages import NotStarted
from harness.engine.newcomers import NO_PURPOSE, STRANGER
from harness.engine.source_hash import source_hash
from harness.errors import InfrastructureError

TOKEN = b"t" * 32


class FakePool:
    """Folders, and no processes."""

    def __init__(self, folder):
        self.folder, self.is_closed = folder, False

    def new_folder(self):
        self.folder.mkdir(exist_ok=True)
        return self.folder

    def close(self):
        self.is_closed = True


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """A serving agent without processes: its address, its lines, and the pools of its runs."""
    pools, lines = [], []

    def pool():
        pools.append(FakePool(tmp_path / "gang"))
        return pools[-1]

    monkeypatch.setattr(host_agent, "Pool", pool)
    server = listen(Address(ip="127.0.0.1", port=0))
    address = Address(ip="127.0.0.1", port=server.getsockname()[1])
    agent = Agent(server, address, TOKEN, lines.append)

    def serve():
        while not any("stop" in line for line in lines):
            agent.step()

    thread = threading.Thread(target=serve)
    thread.start()
    yield SimpleNamespace(address=address, lines=lines, pools=pools, agent=agent)
    lines.append("stop")
    socket.create_connection((address.ip, address.port)).close()
    thread.join(10)
    agent.close()
    server.close()


def control(address):
    channel = HostChannel(connect(address, TOKEN))
    channel.send(Attach(gang=0, place=CONTROL))
    return channel


def until(condition):
    from tests.harness.engine.engine_tools import wait_for

    assert wait_for(condition)


def test_one_run_at_a_time_and_its_end_ends_its_processes(agent):
    first = control(agent.address)
    assert first.wait() == HostInfo(code=source_hash())
    with pytest.raises(InfrastructureError, match="it is busy with another run"):
        HostPool((agent.address,), TOKEN)
    first.close()
    until(lambda: agent.lines[-1] == "the run has ended")
    assert agent.pools[0].is_closed
    with HostPool((agent.address,), TOKEN):
        until(lambda: agent.lines[-1] == "a run has begun")


def test_other_sources_are_refused(agent, monkeypatch):
    monkeypatch.setattr("harness.engine.remote_hosts.source_hash", lambda: "other")
    with pytest.raises(InfrastructureError, match="other sources of harness or moe than this"):
        HostPool((agent.address,), TOKEN)


def test_a_store_listens_on_the_hosts_address_and_logs_begin_anew(agent, tmp_path):
    channel = control(agent.address)
    channel.wait()
    channel.send(Listen(gang=1))
    answer = channel.wait()
    assert isinstance(answer, Listening)
    assert answer.port > 0
    (tmp_path / "gang/rank0.log").write_text("text")
    channel.send(FetchFiles(gang=1, sizes={"rank0.log": 2}))
    assert channel.wait() == Files(contents={"rank0.log": [2, base64.b64encode(b"xt").decode()]})
    channel.send(ClearLogs(gang=1))
    assert channel.wait() == Cleared()
    assert (tmp_path / "gang/rank0.log").read_text() == ""
    channel.close()
    until(lambda: agent.lines[-1] == "the run has ended")


def test_what_is_no_message_ends_the_run_and_not_the_agent(agent):
    channel = control(agent.address)
    channel.wait()
    channel._sock.sendall(b'{"kind": "SpawnForkserver"}\n')
    assert channel.wait() is None
    until(lambda: agent.lines[-1] == "the run has ended")
    assert any("no message: unknown message" in line for line in agent.lines)
    channel.close()


def test_silent_strangers_hold_up_nobody(agent, monkeypatch):
    """One says nothing at all; one has the token, and does not say what it wants.

    A run begins and is answered while both still have time left; later they are closed.
    """
    monkeypatch.setattr(host_connection, "HANDSHAKE_LIMIT", 60.0)
    with socket.create_connection((agent.address.ip, agent.address.port)):
        silent = connect(agent.address, TOKEN)
        with HostPool((agent.address,), TOKEN) as pool:
            assert pool.hosts[0].ask(Listen(gang=1), Listening).port > 0
            assert agent.lines == ["a run has begun"]
            strangers = agent.agent._newcomers.waiting
            assert len(strangers) == 2
            for stranger in strangers:
                stranger.until = 0.0  # its time is over, which the agent's next step tells
            pool.hosts[0].ask(Listen(gang=2), Listening)
            assert sorted(agent.lines[1:]) == sorted([STRANGER, NO_PURPOSE])
        silent.close()


def test_ranks_start_when_the_last_of_their_connections_is_there(agent, monkeypatch):
    """What was sent first over one connection may arrive last over another."""
    started = []
    monkeypatch.setattr(
        FakePool, "order", lambda _, spec, *more: started.append(spec), raising=False
    )
    monkeypatch.setattr(host_agent, "interface_of", lambda _: "lo")
    channel = control(agent.address)
    channel.wait()
    places = [connect(agent.address, TOKEN) for _ in range(2)]
    HostChannel(places[0]).send(Attach(gang=1, place=0))
    init = {"options": {}, "ranks_at_once": 1}
    where = {"world_size": 1, "first_rank": 0, "local_size": 1, "rendezvous": "", "env": {}}
    channel.send(StartPart(gang=1, init=init, **where))
    channel.send(Listen(gang=2))
    assert isinstance(channel.wait(), Listening)  # it has read the order
    assert started == []
    HostChannel(places[1]).send(Attach(gang=1, place=1))
    until(lambda: [spec.world_size for spec in started] == [1])
    for sock in (channel, *places):
        sock.close()
    until(lambda: agent.lines[-1] == "the run has ended")


def no_processes(*_):
    raise OSError("no more processes")


@pytest.mark.parametrize(
    ("init", "order", "reason"),
    [
        ({"options": {}, "ranks_at_once": 1}, no_processes, "OSError: no more processes"),
        ({"ranks_at_once": 1}, lambda *_: None, "KeyError: 'options'"),
    ],
)
def test_ranks_that_cannot_start_are_told_at_once_and_the_agent_serves_on(
    agent, monkeypatch, init, order, reason
):
    monkeypatch.setattr(FakePool, "order", order, raising=False)
    monkeypatch.setattr(host_agent, "interface_of", lambda _: "lo")
    channel = control(agent.address)
    channel.wait()
    channel.send(Listen(gang=1))
    store = channel.wait().port
    places = [connect(agent.address, TOKEN) for _ in range(2)]
    for place, sock in enumerate(places):
        HostChannel(sock).send(Attach(gang=1, place=place))
    where = {"world_size": 1, "first_rank": 0, "local_size": 1, "rendezvous": "", "env": {}}
    channel.send(StartPart(gang=1, init=init, **where))
    holder, rank = map(Channel, places)
    assert holder.wait() == NotStarted(reason=reason)
    assert holder.wait() is None  # closed
    assert rank.wait() is None
    channel.send(Listen(gang=2))
    assert isinstance(channel.wait(), Listening)  # it has closed all of the first gang
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((agent.address.ip, store))
    for sock in (channel, holder, rank):
        sock.close()
    until(lambda: agent.lines[-1] == "the run has ended")


def test_only_logs_and_traces_are_sent_and_of_a_log_what_is_new(tmp_path):
    (tmp_path / "rank0.log").write_text("0123456789")
    (tmp_path / "collectives0.jsonl").write_text("{}")
    (tmp_path / "result0.pickle").write_text("x")
    sent = contents(tmp_path, {"rank0.log": 8, "collectives0.jsonl": 2})
    assert sent == {"rank0.log": (8, "ODk="), "collectives0.jsonl": (0, "e30=")}
    assert contents(tmp_path, {"rank0.log": 99})["rank0.log"][0] == 0  # it began anew


def test_ranks_run_cases_whatever_a_controller_asks_for():
    init = {"options": {"pictures": "/x", "plain_call": True}, "ranks_at_once": 4}
    order = SimpleNamespace(world_size=4, init={**init, "executor": "os:system", "device": "cuda"})
    spec = spec_of(order)
    assert (spec.executor, spec.device, spec.transport) == (
        "harness.execute:run_case",
        "cpu",
        "gloo",
    )
    assert spec.options == {"pictures": None, "plain_call": True, "save_tensors": None}
    assert set(PRELOAD) < set(spec.preload)
