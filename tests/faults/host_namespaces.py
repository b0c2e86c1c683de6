"""Hosts for tests: namespaces of network, mounts, process ids and host name, joined by a bridge.

Each has a /tmp and a /dev/shm of its own, so that ranks of two hosts share neither a file, nor
memory, nor a process id; the repository is bound to /mnt. They need root, `unshare` and `ip`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.harness.engine.engine_tools import wait_for

ROOT = Path(__file__).parents[2]
UNSHARE = [
    "unshare",
    "--net",
    "--mount",
    "--uts",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]
MOUNTS = (
    f"mount --bind {ROOT} /mnt && mount -t tmpfs tmp /tmp && mount -t tmpfs shm /dev/shm"
    # Scripts of the interpreter name the repository's path, which may lie in the /tmp that is gone.
    f" && mkdir -p {ROOT} && mount --bind /mnt {ROOT} && cd /mnt && ip link set lo up"
)
PORT = 4000


def refusal() -> str | None:
    """Return why such hosts cannot be made here, or None."""
    needed = ("unshare", "nsenter", "ip", "tc", "ss", "ps")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        return f"no program {missing[0]}"
    prefix = Path(sys.prefix).resolve()
    if prefix.is_relative_to("/tmp") and not prefix.is_relative_to(ROOT):
        return f"the interpreter lies in {prefix}, and each host has a /tmp of its own"
    links = "ip link add bridge0 type bridge && ip link add link0 type veth peer name link1"
    test = f"{MOUNTS} && {links}"
    done = subprocess.run([*UNSHARE, "sh", "-c", test], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no namespaces: {done.stderr.strip()}"


@dataclass
class Host:
    """A namespace. pid: of its first process, as the test sees it."""

    name: str
    ip: str
    process: subprocess.Popen[bytes]
    pid: int

    @property
    def tmp(self) -> Path:
        """Its /tmp, as the test sees it."""
        return Path(f"/proc/{self.pid}/root/tmp")

    def command(self, *words: str) -> list[str]:
        """Return the command that runs another one in this host."""
        inside = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", "--pid"]
        return [*inside, "--wd=/mnt", *words]

    def run(self, *words: str) -> str:
        """Run a command in this host, and return its output."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def processes(self) -> list[str]:
        """Return the command lines of its processes, without its first one and the asker."""
        lines = self.run("ps", "-eo", "pid,args", "--no-headers").splitlines()
        return [line for line in lines if line.split()[0] != "1" and " ps -eo" not in line]


def start(name: str, ip: str, mark: str) -> Host:
    """Start a host; it is there once it has a host name of its own."""
    script = f"{MOUNTS} && hostname {name} && touch /tmp/ready && exec sleep 100000"
    environment = {**os.environ, "MARK_OF_THE_RUN": mark}
    process = subprocess.Popen([*UNSHARE, "sh", "-c", script], env=environment)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    assert wait_for(lambda: bool(children.read_text().split()))
    pid = int(children.read_text().split()[0])
    assert wait_for(lambda: Path(f"/proc/{pid}/root/tmp/ready").exists())
    return Host(name=name, ip=ip, process=process, pid=pid)


class Network:
    """A controller's host and others, each on a link of its own to the controller's bridge."""

    def __init__(self, count: int) -> None:
        self.mark, self.token = secrets.token_hex(8), secrets.token_hex(32)
        self.hosts: list[Host] = []
        self.agents: list[subprocess.Popen[bytes]] = []
        self.controller = start("controller", "10.77.0.254", self.mark)
        try:
            self._join(count)
        except BaseException:
            self.close()
            raise

    def _join(self, count: int) -> None:
        self.controller.run("ip", "link", "add", "name", "bridge0", "type", "bridge")
        self.controller.run("ip", "address", "add", "10.77.0.254/24", "dev", "bridge0")
        self.controller.run("ip", "link", "set", "bridge0", "up")
        self._write_token(self.controller)
        for number in range(1, count + 1):
            self._add(number)

    def close(self) -> None:
        """End everything: what is in a namespace of process ids ends with its first process."""
        for host in (*self.hosts, self.controller):
            host.process.kill()
            host.process.wait()
        for agent in self.agents:
            agent.wait(30)

    def start_agents(self) -> None:
        """Start `python -m harness host` on each host, and wait until all listen."""
        for host in self.hosts:
            listen = ["--listen", f"{host.ip}:{PORT}", "--token-file", "/tmp/token"]
            command = host.command(sys.executable, "-m", "harness", "host", *listen)
            environment = {**os.environ, "MARK_OF_THE_RUN": self.mark}
            with (host.tmp / "agent.log").open("wb") as log:
                agent = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            self.agents.append(agent)
        assert wait_for(lambda: all("listening" in self.log(host) for host in self.hosts))

    def log(self, host: Host) -> str:
        """Return what the agent of a host has printed."""
        return (host.tmp / "agent.log").read_text()

    def link(self, host: Host) -> str:
        """Return the name of a host's link in the controller's namespace."""
        return f"to-{host.name}"

    def cut(self, host: Host) -> None:
        """Take a host's link down."""
        self.controller.run("ip", "link", "set", self.link(host), "down")

    def mend(self, host: Host) -> None:
        """Bring a host's link up again, at full speed."""
        self.controller.run("ip", "link", "set", self.link(host), "up")
        shape = ["tc", "qdisc", "del", "dev", self.link(host), "root"]
        subprocess.run(self.controller.command(*shape), capture_output=True, check=False)

    def slow_down(self, host: Host, rate: str) -> None:
        """Limit what reaches a host. rate: as tc has it, such as 1mbit."""
        words = ["rate", rate, "burst", "8kb", "latency", "500ms"]
        self.controller.run(
            *("tc", "qdisc", "replace", "dev", self.link(host), "root", "tbf"), *words
        )

    def start_run(self, *options: str, out: str) -> subprocess.Popen[bytes]:
        """Start `run` on the controller's host, over all hosts."""
        where = ",".join(f"{host.ip}:{PORT}" for host in self.hosts)
        words = ["--hosts", where, "--token-file", "/tmp/token", "--out", f"/tmp/{out}", *options]
        command = self.controller.command(sys.executable, "-m", "harness", "run", *words)
        environment = {**os.environ, "MARK_OF_THE_RUN": self.mark}
        with self._output(out).open("wb") as output:
            return subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def text(self, out: str) -> str:
        """Return what a run has printed."""
        return self._output(out).read_text()

    def _output(self, out: str) -> Path:
        return self.controller.tmp / f"{out}.txt"

    def _add(self, number: int) -> None:
        host = start(f"host{number}", f"10.77.0.{number}", self.mark)
        self.hosts.append(host)
        self._write_token(host)
        link, target = self.link(host), str(host.pid)
        pair = ["type", "veth", "peer", "name", "eth0", "netns", target]
        # Where the test's process ids count, by which the other end's namespace is named.
        enter = ["nsenter", "--target", str(self.controller.pid), "--net"]
        subprocess.run([*enter, "ip", "link", "add", "name", link, *pair], check=True)
        self.controller.run("ip", "link", "set", link, "master", "bridge0")
        self.controller.run("ip", "link", "set", link, "up")
        host.run("ip", "address", "add", f"{host.ip}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")

    def _write_token(self, host: Host) -> None:
        path = host.tmp / "token"
        path.touch(mode=0o600)
        path.write_text(self.token)
