"""The warm processes of this process: whoever asks for ranks, and from whichever thread."""

from __future__ import annotations

import os
import threading
import time

import torch.distributed as dist

from harness import parallel_launch
from harness.testing.warm_pool import WarmPool, shutdown


def in_this_module():
    return dist.get_rank() * 2


def test_the_pool_is_the_same_until_it_is_shut_down():
    first = WarmPool.get()
    assert WarmPool.get() is first
    shutdown()
    assert first.guardian.poll() is not None
    assert WarmPool.get() is not first


def test_a_pool_whose_guardian_was_killed_is_replaced():
    first = WarmPool.get()
    first.guardian.kill()
    first.guardian.wait()
    assert WarmPool.get() is not first
    assert parallel_launch(1, in_this_module) == [0]


def test_it_works_from_a_thread_that_ends():
    """A parent-death signal tied to this thread would kill the warm processes with it."""
    shutdown()
    found = []
    thread = threading.Thread(target=lambda: found.append(parallel_launch(2, in_this_module)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert found == [[0, 2]]
    assert parallel_launch(2, in_this_module) == [0, 2]


def test_a_forked_child_starts_its_own_processes_and_leaves_ours():
    parallel_launch(1, in_this_module)
    ours = WarmPool.get().guardian.pid
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            right = parallel_launch(2, in_this_module) == [0, 2]
            status = 0 if right and WarmPool.get().guardian.pid != ours else 2
            shutdown()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert WarmPool.get().guardian.pid == ours
    assert parallel_launch(2, in_this_module) == [0, 2]
