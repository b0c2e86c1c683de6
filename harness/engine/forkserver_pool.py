"""Manage the process tree from the controller: one guardian, and forkservers on demand.

Torch-free. A forkserver is shared by all gangs that can be forked from it. Edited sources, other
import-time environment variables or other modules to preload need a new one; the old one ends
with its last gang.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.channel import Channel
from harness.engine.guardian import command
from harness.engine.messages import KillProcess, Preloaded, SpawnForkserver, StartGang
from harness.engine.slots import Slots
from harness.errors import InfrastructureError, reason_of
from harness.record.closing import ClosedByWith

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.engine.gang_spec import GangSpec, HostPart

CLOSE_LIMIT = 90.0  # seconds for the guardian to kill its tree
# Switches that keep NVLink multicast off. Once set they reach every rank, even if unset later.
MULTICAST_OFF = ("NCCL_NVLS_ENABLE", "TORCH_SYMM_MEM_DISABLE_MULTICAST", "NVSHMEM_DISABLE_NVLS")
_READ_AT_IMPORT = ("TORCH", "PYTORCH", "TRITON", "OMP", "MKL", "OPENBLAS", "KMP", "LD_", "PYTHON")
_ROOT = Path(__file__).resolve().parents[2]
_WATCHED = ("harness", "moe")  # packages whose edited sources need a new forkserver


@dataclass(kw_only=True)
class Forkserver:
    """One preloaded process. environment: the controller's when the process was started."""

    channel: Channel
    log: Path
    environment: dict[str, str]
    preloaded: Preloaded | None = None
    gangs: int = 0

    def poll(self) -> None:
        for message in self.channel.receive():
            if isinstance(message, Preloaded):
                self.preloaded = message


class Pool(ClosedByWith):
    """Owns every process that a run starts. Close it, or use it in a `with` statement."""

    def __init__(self, held: tuple[int, ...] = ()) -> None:
        """held: file descriptors, such as of locks, that stay open until all processes are gone,
        even if this process is killed: the guardian inherits them, and no rank does.
        """
        with disk_errors():
            self.folder = Path(tempfile.mkdtemp(prefix="harness-"))  # 0700
        self._held = held
        self._servers: dict[object, Forkserver] = {}
        self._retired: list[Forkserver] = []
        self._gang_channels: list[Channel] = []  # channels of gangs
        self._count = 0
        self.controller = os.getpid()
        try:
            with disk_errors():
                self._start_guardian()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def close(self) -> None:
        """End every process that the pool has started; return once they are gone."""
        servers = [*self._servers.values(), *self._retired]
        of_servers = [server.channel for server in servers]
        for channel in [self._channel, *of_servers, *self._gang_channels]:
            channel.close()
        self.guardian.wait(CLOSE_LIMIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def forkserver(self, spec: GangSpec) -> Forkserver:
        """Return the forkserver for such gangs, started if necessary; it may not be ready yet."""
        self._retire_idle()
        key = (spec.device == "cpu", spec.preload, _import_time_environment())
        stamp = (key, _fingerprint())
        server = self._servers.get(stamp)
        if server is None or server.channel.closed:
            for old in [old for old in self._servers if old == stamp or _superseded(old, stamp)]:
                self._retired.append(self._servers.pop(old))
            server = self._servers[stamp] = self._spawn(spec)
        return server

    def start(self, spec: GangSpec, folder: Path) -> tuple[Forkserver, Channel, list[Channel]]:
        """Order a gang; return its forkserver, the holder's channel, and each rank's channel.

        Raises InfrastructureError without torch, where each gang would end with the same traceback.
        """
        check_torch()
        pairs = [Channel.pair() for _ in range(spec.world_size + 1)]
        server = self.order(spec, folder, [remote.fileno() for _, remote in pairs])
        for _, remote in pairs:
            remote.close()
        holder, *ranks = [local for local, _ in pairs]
        self._gang_channels = [channel for channel in self._gang_channels if not channel.closed]
        self._gang_channels += [holder, *ranks]
        return server, holder, ranks

    def order(
        self, spec: GangSpec, folder: Path, fds: list[int], part: HostPart | None = None
    ) -> Forkserver:
        """Order a gang, or the part of one that is on this host; return its forkserver.

        fds: of the other ends of channels, as `rank_bootstrap.hold` has them; the caller closes
        them.
        """
        server = self.forkserver(spec)
        env, unset = _changes(server.environment)
        init = asdict(spec.init)
        if part is not None:
            env, init = {**env, **part.env}, {**init, "rendezvous": part.rendezvous}
        order = StartGang(
            world_size=spec.world_size,
            folder=str(folder),
            env=env,
            unset=unset,
            sys_path=_sys_path(),
            init=init,
            first_rank=part.first_rank if part else 0,
            local_size=part.local_size if part else 0,
        )
        with contextlib.suppress(OSError):  # it has died: readers of the channels will notice
            server.channel.send(order, fds)
        server.gangs += 1
        return server

    def slots(self, per_device: int, devices: int) -> Slots:
        """Return the slots of this machine."""
        return Slots(per_device, devices)

    def fetch(self, folder: Path) -> None:
        """Bring the files of a gang's ranks into its folder: on this machine they are there."""

    def cleared(self, folder: Path) -> None:
        """Have the gang's logs begin anew elsewhere, too: on this machine they are the same."""

    def new_folder(self) -> Path:
        """Create and return a folder for one gang. Raises InfrastructureError if it cannot."""
        self._count += 1
        folder = self.folder / f"gang{self._count}"
        with disk_errors():
            folder.mkdir()
        return folder

    def kill(self, pid: int) -> None:
        """Kill a holder that does not answer; its ranks die with it."""
        with contextlib.suppress(OSError):
            self._channel.send(KillProcess(pid=pid))

    def _start_guardian(self) -> None:
        self._channel, remote = Channel.pair()
        with (self.folder / "guardian.log").open("ab") as log:
            self.guardian = subprocess.Popen(
                command(
                    "harness.engine.guardian",
                    _sys_path(),
                    remote.fileno(),
                    os.getpid(),
                    self.folder,
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(remote.fileno(), *self._held),
                start_new_session=True,
            )
        remote.close()

    def _spawn(self, spec: GangSpec) -> Forkserver:
        if self.guardian.poll() is not None:  # killed from outside, and its whole tree with it
            self._channel.close()
            self._start_guardian()
        local, remote = Channel.pair()
        log = self.folder / f"forkserver{len(self._servers) + len(self._retired) + 1}.log"
        env, unset = _triton_mode(spec.device)
        order = SpawnForkserver(
            env={**os.environ, **env},
            unset=unset,
            sys_path=_sys_path(),
            preload=list(spec.preload),
            log=str(log),
        )
        with contextlib.suppress(OSError):
            self._channel.send(order, [remote.fileno()])
        remote.close()
        return Forkserver(channel=local, log=log, environment={**dict(os.environ), **env})

    def _retire_idle(self) -> None:
        for server in [server for server in self._retired if server.gangs == 0]:
            server.channel.close()
            self._retired.remove(server)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Raise InfrastructureError where the folder for temporary files cannot be written."""
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or "TMPDIR"
        raise InfrastructureError(
            f"cannot make a folder for ranks in {folder}: {reason_of(error)}; "
            "free some space there, or set TMPDIR to another folder"
        ) from error


def _superseded(old: Any, new: Any) -> bool:
    """Return whether `new` has the same modules and mode, but newer sources or environment."""
    return bool(old[0][:2] == new[0][:2] and old != new)


def _triton_mode(device: str) -> tuple[dict[str, str], list[str]]:
    """Return variables to set and to unset for Triton, which interprets only on the CPU.

    Triton reads the variable when it is imported.
    """
    if device != "cpu":
        return {}, ["TRITON_INTERPRET"]
    return {"TRITON_INTERPRET": os.environ.get("TRITON_INTERPRET", "1")}, []


def _changes(before: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return variables to set and to unset that turn `before` into the current environment."""
    never_unset = {*MULTICAST_OFF, "TRITON_INTERPRET"}
    env = {
        name: value
        for name, value in os.environ.items()
        if before.get(name) != value and name != "TRITON_INTERPRET"
    }
    return env, [name for name in before if name not in os.environ and name not in never_unset]


def _import_time_environment() -> tuple[tuple[str, str], ...]:
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(_READ_AT_IMPORT)))


def _fingerprint() -> tuple[tuple[str, int, int], ...]:
    """Return path, modification time and size of every source file of the watched packages."""
    files = sorted(file for package in _WATCHED for file in (_ROOT / package).rglob("*.py"))
    return tuple(
        (str(file), stat.st_mtime_ns, stat.st_size) for file in files for stat in [file.stat()]
    )


def _sys_path() -> list[str]:
    """Return this process's module search path, with relative entries made absolute."""
    return [str(Path(entry).resolve()) if entry in ("", ".") else entry for entry in sys.path]


def check_torch() -> None:
    """Raise InfrastructureError unless the interpreter of the ranks has torch."""
    if importlib.util.find_spec("torch") is None:
        raise InfrastructureError(
            f"no case can run: every rank imports torch, and {sys.executable} does not have it; "
            "install it (pip install torch), or use an interpreter that has it"
        )
