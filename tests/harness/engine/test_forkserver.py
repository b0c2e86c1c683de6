"""What a forkserver has before the first fork: loaded modules, one thread, no device."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.engine import forkserver
from harness.engine.gang_spec import PRELOAD
from tests.harness.engine.engine_pools import warm_server


def test_torch_was_loaded_before_the_fork(rank):
    maps = Path(f"/proc/{warm_server().preloaded.pid}/maps").read_text()
    assert "libtorch" in maps
    assert rank["forkserver"] == warm_server().preloaded.pid
    assert set(PRELOAD) == set(warm_server().preloaded.modules)


def test_the_forkserver_has_one_thread_and_ranks_can_compute(rank):
    assert warm_server().preloaded.threads == 1
    assert rank["product"] == 200.0


def test_a_preloaded_module_that_touched_a_device_is_refused(monkeypatch):
    touched = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", touched)
    with pytest.raises(RuntimeError, match="importing json touched a device"):
        forkserver.preload(["json"])


def test_ranks_share_the_cores(rank):
    assert rank["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)


def test_cpu_ranks_interpret_triton_kernels(rank):
    assert rank["triton"] == "InterpretedFunction"


def test_no_rank_of_a_cpu_gang_touches_a_device(rank):
    assert rank["cuda_initialized"] is False
