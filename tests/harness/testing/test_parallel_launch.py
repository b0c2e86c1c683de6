"""`parallel_launch`: values back, each failing rank named, and nothing changed in the caller."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from harness import RankFailure, parallel_launch
from harness.engine.warm_gangs import GangStartError
from tests.harness.engine import engine_calls
from tests.harness.engine.engine_tools import marked, wait_for


def test_values_come_back_in_rank_order():
    values = parallel_launch(3, engine_calls.sum_of_ranks, 10)
    assert [value["rank"] for value in values] == ["0", "1", "2"]
    assert [value["total"].item() for value in values] == [33] * 3
    assert {value["world"] for value in values} == {"3"}


def in_this_module():
    return dist.get_rank() * 2


def test_functions_of_a_test_module_and_partials_will_do():
    assert parallel_launch(2, in_this_module) == [0, 2]
    assert parallel_launch(1, functools.partial(engine_calls.sleep_everywhere, 0.0)) == [None]


def forkserver():
    """Return the process that forked this rank's holder."""
    return int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])


def test_later_calls_are_warm():
    first = parallel_launch(2, forkserver)
    assert len(set(first)) == 1
    assert parallel_launch(2, forkserver) == first


def test_the_rank_that_raises_is_named_with_its_traceback():
    with pytest.raises(RankFailure) as caught:
        parallel_launch(3, engine_calls.raise_on, 2)
    assert list(caught.value.ranks) == [2]
    assert "1 of 3 ranks failed (2):\nrank 2: Traceback" in str(caught.value)
    assert "KeyError: 'told to, on 2'" in str(caught.value)


@pytest.mark.parametrize("code", [0, 7])
def test_the_rank_that_exits_is_named_with_its_code(code):
    with pytest.raises(RankFailure) as caught:
        parallel_launch(2, engine_calls.exit_on, 1, code)
    assert f"rank 1: ended by itself with exit code {code}" in caught.value.ranks[1]


def test_the_rank_that_does_not_return_is_named_with_its_stack():
    start = time.monotonic()
    with pytest.raises(RankFailure) as caught:
        parallel_launch(2, engine_calls.sleep_on, 1, timeout=0.5)
    assert time.monotonic() - start < 300  # the rank would sleep so long
    assert list(caught.value.ranks) == [1]
    assert "still running after " in caught.value.ranks[1]
    assert "in sleep_on" in caught.value.ranks[1]


def test_a_value_that_cannot_be_sent_back_fails_its_rank():
    with pytest.raises(RankFailure, match="pickle"):
        parallel_launch(1, engine_calls.unpicklable)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_caller_is_as_before():
    environment, folder = dict(os.environ), Path.cwd()
    threads = threading.active_count()
    parallel_launch(2, in_this_module)  # the warm processes' channels stay
    files = open_files()
    for call, arguments in ((in_this_module, ()), (engine_calls.raise_on, (0,))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PASSED_ON", "1")
            with contextlib.suppress(RankFailure):
                parallel_launch(2, call, *arguments)
    assert dict(os.environ) == environment
    assert Path.cwd() == folder
    assert threading.active_count() == threads
    assert open_files() == files
    assert not dist.is_initialized()
    assert not torch.cuda.is_initialized()


def test_what_a_rank_leaves_running_ends_with_the_call():
    mark = uuid.uuid4().hex
    parallel_launch(2, engine_calls.leave_a_grandchild, mark)
    assert marked(mark) == []


def test_a_caller_with_a_process_group_keeps_it(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert parallel_launch(2, in_this_module) == [0, 2]
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"world_size": 0}, "world_size must be at least 1, not 0"),
        ({"timeout": 0}, "timeout must be more than 0 seconds, not 0"),
        ({"device": "tpu"}, "device must be one of cpu, cuda, not 'tpu'"),
        ({"transport": "nccl"}, "transport on cpu must be one of gloo, not 'nccl'"),
    ],
)
def test_impossible_arguments_are_refused_before_anything_starts(wrong, words):
    world_size = wrong.pop("world_size", 2)
    with pytest.raises(ValueError, match=words):
        parallel_launch(world_size, in_this_module, **wrong)


def test_a_lambda_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"cannot be sent .* define it at the top level"):
        parallel_launch(1, lambda: 1)


def test_a_function_of_main_is_refused_with_the_way_out(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from harness import parallel_launch\ndef work(): pass\nparallel_launch(1, work)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "work is defined in __main__, which the ranks cannot import" in done.stderr
    assert "define it at the top level of a module" in done.stderr


def test_a_function_that_ranks_cannot_import_is_a_failure_that_says_so(tmp_path, monkeypatch):
    (tmp_path / "engine_vanishing.py").write_text("def work():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import engine_vanishing

    (tmp_path / "engine_vanishing.py").unlink()
    with pytest.raises(RankFailure, match="No module named 'engine_vanishing'"):
        parallel_launch(1, engine_vanishing.work)


def test_ranks_that_cannot_start_are_no_rank_failure(monkeypatch):
    monkeypatch.setattr(
        "harness.testing.parallel_launch.TRANSPORTS", {"cpu": ("no_such_transport",)}
    )
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no_such_interface")
    with pytest.raises(GangStartError, match="before the gang was ready"):
        parallel_launch(1, in_this_module)


def test_an_interrupt_ends_every_process(tmp_path):
    mark = f"ENGINE_TEST={uuid.uuid4()}"
    code = (
        "from tests.harness.engine import engine_calls; from harness import parallel_launch\n"
        "parallel_launch(2, engine_calls.sleep_everywhere, 300.0, timeout=600)"
    )
    path = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **dict([mark.split("=")]), "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
    )
    assert wait_for(lambda: len(marked(mark)) == 6), marked(mark)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert marked(mark) == []
