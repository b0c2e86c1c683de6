"""`spawn` in the place of torch.multiprocessing.spawn: its calls, and the faults that it misses."""

from __future__ import annotations

import inspect
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from harness import RankFailure, spawn


def writes_its_rank(rank, folder, text):
    (folder / f"{rank}").write_text(text + os.environ["WORLD_SIZE"])


def joins_a_group(rank, world_size, folder):
    """As tests of serving stacks do: a process group of its own, by a file."""
    assert not dist.is_initialized()
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    value = torch.tensor([rank + 1])
    dist.all_reduce(value)
    assert value.item() == 6
    (folder / f"{rank}").write_text("6")


def leaves_early(rank, code):
    if rank == 1:
        os._exit(code)


def raises(rank):
    if rank == 1:
        raise KeyError("of rank 1")


def waits(rank):
    import time

    time.sleep(600 if rank == 1 else 0)


def test_the_arguments_are_those_of_torch():
    theirs = inspect.signature(torch.multiprocessing.spawn).parameters
    ours = inspect.signature(spawn).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default


def test_each_rank_gets_its_number_first(tmp_path):
    assert spawn(writes_its_rank, args=(tmp_path, "of "), nprocs=2) is None
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "0": "of 2",
        "1": "of 2",
    }


def test_a_function_sets_up_its_own_process_group(tmp_path):
    spawn(joins_a_group, (3, tmp_path), 3)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == list("012")


@pytest.mark.parametrize("code", [0, 3])
def test_a_rank_that_leaves_early_fails_whatever_its_code(code):
    with pytest.raises(RankFailure, match=f"rank 1: ended by itself with exit code {code}"):
        spawn(leaves_early, (code,), nprocs=2)


def test_an_exception_comes_with_its_traceback():
    with pytest.raises(RankFailure, match="rank 1: Traceback") as caught:
        spawn(raises, nprocs=2)
    assert "KeyError: 'of rank 1'" in str(caught.value)


def test_a_rank_that_hangs_ends_with_the_limit():
    with pytest.raises(RankFailure, match=r"rank 1: still running after 0\.5 s"):
        spawn(waits, nprocs=2, timeout=0.5)


def test_processes_that_outlive_the_call_are_refused():
    with pytest.raises(ValueError, match="join must be True"):
        spawn(raises, nprocs=1, join=False)
