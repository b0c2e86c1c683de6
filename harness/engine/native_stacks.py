"""Let py-spy, where it is installed, write the stacks of ranks that hang, with frames of C code.

faulthandler's stacks end where Python calls C: what a rank does in a lock, a library or a driver is
seen only so. It is not required, and needs the right to trace processes. Torch-free.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from harness.engine import crash_evidence

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "py-spy"


class NativeStacks:
    """Start py-spy on each process; poll `is_complete`, then call `end`."""

    def __init__(self, pids: list[int], folder: Path) -> None:
        """pids: by rank. Nothing is started without the program."""
        self._files = {rank: folder / f"native{rank}.txt" for rank in range(len(pids))}
        self._processes: list[subprocess.Popen[bytes]] = []
        if program := shutil.which(PROGRAM):
            dump = [program, "dump", "--native", "--pid"]
            self._processes = [
                _start([*dump, str(pid)], self._files[rank]) for rank, pid in enumerate(pids)
            ]

    def is_complete(self) -> bool:
        """Return whether every process of py-spy has ended."""
        return all(process.poll() is not None for process in self._processes)

    def end(self) -> dict[int, str]:
        """End what still runs; return what was written of each rank, errors included."""
        for process in self._processes:
            process.kill()
            process.wait()
        texts = {rank: crash_evidence.read(file) for rank, file in self._files.items()}
        return {rank: text for rank, text in texts.items() if text}


def _start(command: list[str], file: Path) -> subprocess.Popen[bytes]:
    with file.open("wb") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
