"""Without a GPU, Triton kernels run in its interpreter; that must be said before triton loads.

Importing this imports neither torch nor triton: tests of the harness stay light. On a machine
with a GPU the kernels are compiled, unless TRITON_INTERPRET says otherwise.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

pytest_plugins = ["tests.time_limit"]

_GPU_FILES = ("/proc/driver/nvidia/version", "/dev/kfd")

# Workers side by side share the cores: threads that wait for each other cost more than they save.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    _THREADS = max(1, len(os.sched_getaffinity(0)) // _WORKERS)
    os.environ.setdefault("OMP_NUM_THREADS", str(_THREADS))

# A shell's `&` has its command ignore Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not any(Path(name).exists() for name in _GPU_FILES):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.hookimpl(trylast=True)  # after -k, which leaves out the rest
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from tests import row_selection

    if row_selection.with_extra_rows():
        row_selection.select(config, items)


@pytest.fixture
def kernel_device() -> torch.device:
    """Where Triton kernels run in this process: interpreted on the CPU, compiled on a GPU."""
    import torch

    from moe.kernels.launch import INTERPRETED

    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture
def on_kernel_device(kernel_device: torch.device) -> Iterator[None]:
    """Make a test's tensors there, unless it names a device."""
    with kernel_device:
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: small products gain nothing from two, and lose where cores are taken."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def environment_to_compile() -> dict[str, str]:
    """Of a child process in which Triton kernels are compiled, not interpreted."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return kept | {"PYTHONPATH": path}
