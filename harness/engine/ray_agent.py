"""The agent of `host`, as an actor of a Ray cluster. Torch-free.

It lives in the actor's own process: when Ray or somebody else ends that, its connections close and
its ranks end, as those of a host that disappears.
"""

from __future__ import annotations

from harness.engine.host_agent import Agent
from harness.engine.host_connection import Address, listen


class RayAgent:
    """One run's agent on one node. The cluster makes it, in a process of its own."""

    def listen(self, token: str) -> tuple[str, int]:
        """Listen at a free port of the node's address; return both.

        token: what the controller will show. Raises InfrastructureError.
        """
        import ray

        ip = str(ray.util.get_node_ip_address())
        self._server = listen(Address(ip=ip, port=0))
        self._address = Address(ip=ip, port=self._server.getsockname()[1])
        self._token = token.encode()
        return self._address.ip, self._address.port

    def serve(self) -> None:
        """Serve the run; return once it is over and its processes are gone."""
        with self._server:
            Agent(self._server, self._address, self._token, print).serve(runs=1)
