"""One fault and one healthy case, each as a test of another runner; see reliability.py.

The environment variable FAULT names the fault. In TestSpawn two ranks meet over gloo, as they do
in reliability_multiprocess.py. A worker of pytest-xdist is one process: TestInWorker has the fault
in the worker itself.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch.distributed as dist
from torch.multiprocessing.spawn import spawn as start_processes

WORLD = 2


def do_fault(name: str, rank: int, world: int, file: str) -> None:
    """Run a fault of the tests on one rank, or nothing but a barrier if it is "healthy"."""
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    context = SimpleNamespace(rank=rank, world_size=world, report_status=print)
    module, _, function = os.environ["FAULT"].partition(":")
    if name == "healthy":
        dist.barrier()
    else:
        getattr(importlib.import_module(module), function)(context)
    dist.destroy_process_group()


def _spawned(rank: int, name: str, file: str) -> None:
    do_fault(name, rank, WORLD, file)


def spawn(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_spawned, (name, f"{folder}/store"), WORLD)  # type: ignore[no-untyped-call]


class TestSpawn:
    def test_fault(self) -> None:
        spawn("fault")

    def test_healthy(self) -> None:
        spawn("healthy")


class TestInWorker:
    def run(self, name: str) -> None:
        """On rank 1, which does the faults, as far as they need no other rank."""
        with tempfile.TemporaryDirectory() as folder:
            dist.init_process_group(
                "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
            )
            context = SimpleNamespace(rank=1, world_size=1, report_status=print)
            module, _, function = os.environ["FAULT"].partition(":")
            if name == "fault":
                getattr(importlib.import_module(module), function)(context)
            dist.destroy_process_group()

    def test_fault(self) -> None:
        self.run("fault")

    def test_healthy(self) -> None:
        self.run("healthy")
