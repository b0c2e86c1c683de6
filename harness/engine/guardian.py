"""Run the guardian, which ensures that no process of a run outlives the controller.

It imports no torch, runs in its own session (Ctrl-C and a closed terminal do not reach it) and is
the subreaper of every process of the run. When the controller's end of the channel closes, or the
controller ends while another process still holds that end open, the guardian kills its whole
tree, removes the run's private folder and exits.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from harness.engine import process_tree
from harness.engine.channel import Channel
from harness.engine.messages import KillProcess, SpawnForkserver

KILL_LIMIT = 60.0  # seconds; only a process in an uninterruptible call takes this long

# Run by `python -c`: the child uses the parent's module search path, not its current folder.
BOOT = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "importlib.import_module(sys.argv[1]).main(sys.argv[3:])"
)


def command(module: str, sys_path: list[str], *arguments: object) -> list[str]:
    """Return the command line of one of this package's servers."""
    import json

    return [sys.executable, "-c", BOOT, module, json.dumps(sys_path), *map(str, arguments)]


def watch_children() -> socket.socket:
    """Return a socket that becomes readable when a child of this process ends."""
    reader, writer = socket.socketpair()
    for sock in (reader, writer):
        sock.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    writer.detach()  # the signal module stores the number only: do not close it
    return reader


def drain(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while sock.recv(4096):
            pass


def _spawn(channel: Channel, order: SpawnForkserver) -> None:
    """Start a forkserver on the channel that came with the order."""
    fd = channel.fds.pop(0)
    env = {**os.environ, **order.env}
    for name in order.unset:
        env.pop(name, None)
    with Path(order.log).open("ab") as log:
        subprocess.Popen(  # reaped by `process_tree.reap`
            command("harness.engine.forkserver", order.sys_path, fd, os.getpid(), *order.preload),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            pass_fds=(fd,),
        )
    os.close(fd)


def _obey(channel: Channel) -> None:
    for order in channel.receive():
        if isinstance(order, SpawnForkserver):
            _spawn(channel, order)
        elif isinstance(order, KillProcess) and order.pid in process_tree.descendants(os.getpid()):
            os.kill(order.pid, signal.SIGKILL)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # no such process, or no such system call: rely on the channel's end alone
        return None


def main(arguments: list[str]) -> None:
    """Serve the controller until it is gone, then kill every process of the run.

    arguments: the channel's file descriptor, the controller's pid, the run's private folder.
    """
    channel = Channel.from_fd(int(arguments[0]))
    controller, folder = int(arguments[1]), arguments[2]
    process_tree.become_subreaper()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # SIG_IGN would be inherited by ranks
    signal.signal(signal.SIGTERM, lambda *_: channel.close())
    _serve(channel, controller)
    _, survivors = process_tree.kill_descendants(KILL_LIMIT)
    if survivors:
        print(f"processes that cannot be killed: {survivors}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)


def _serve(channel: Channel, controller: int) -> None:
    """Handle orders until the controller is gone."""
    children = watch_children()
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        selector.register(children, selectors.EVENT_READ)
        gone = _pidfd(controller)
        if gone is not None:
            selector.register(gone, selectors.EVENT_READ)
        while not channel.closed:
            ready = [key.fileobj for key, _ in selector.select()]
            if gone in ready:
                return
            drain(children)
            process_tree.reap()
            if channel in ready:
                _obey(channel)


if __name__ == "__main__":
    main(sys.argv[1:])
