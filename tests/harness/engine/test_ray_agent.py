"""The agent in an actor: it gives its address, and serves one run. A stand-in is Ray's part."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from harness.engine.host_connection import Address
from harness.engine.host_pool import HostPool
from harness.engine.ray_agent import RayAgent
from harness.errors import InfrastructureError

TOKEN = "t" * 64


def test_an_agent_listens_on_its_nodes_address_and_ends_with_the_run(monkeypatch):
    node = SimpleNamespace(util=SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1"))
    monkeypatch.setitem(sys.modules, "ray", node)
    agent = RayAgent()
    ip, port = agent.listen(TOKEN)
    assert ip == "127.0.0.1"
    serving = threading.Thread(target=agent.serve)
    serving.start()
    address = Address(ip=ip, port=port)
    with pytest.raises(InfrastructureError, match="it has another token"):
        HostPool((address,), b"x" * 64)
    with HostPool((address,), TOKEN.encode()) as pool:
        assert pool.hosts[0].address == address
        assert serving.is_alive()
    serving.join(20)
    assert not serving.is_alive()
    with pytest.raises(InfrastructureError, match="does not answer"):
        HostPool((address,), TOKEN.encode())
