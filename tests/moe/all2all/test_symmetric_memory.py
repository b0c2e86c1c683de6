"""Without a GPU: what is asked of torch, and that multicast is off meanwhile."""

import os
from types import SimpleNamespace

import pytest
import torch

from moe.all2all import symmetric_memory
from moe.all2all.symmetric_memory import SymmetricMemory
from moe.collectives import Group

NAME = "TORCH_SYMM_MEM_DISABLE_MULTICAST"


@pytest.mark.parametrize("before", [None, "0"])
def test_multicast_is_off_while_memory_is_set_up_and_the_environment_stays(before, monkeypatch):
    if before is None:
        monkeypatch.delenv(NAME, raising=False)
    else:
        monkeypatch.setenv(NAME, before)
    seen, met = [], []
    handle = SimpleNamespace(buffer_ptrs=[64, 128], barrier=lambda: met.append(1))

    def rendezvous(tensor, group):
        seen.append((len(tensor), group, os.environ[NAME]))
        return handle

    monkeypatch.setattr(symmetric_memory.symm_mem, "empty", torch.empty)
    monkeypatch.setattr(symmetric_memory.symm_mem, "rendezvous", rendezvous)
    memory = SymmetricMemory(Group(handle="group", size=2, rank=0), 100, torch.device("cpu"))
    assert seen == [(100, "group", "1")]
    assert memory.addresses.tolist() == [64, 128]
    memory.barrier()
    assert len(met) == 2
    assert os.environ.get(NAME) == before
