"""Functions in ranks that stay warm from test to test, as the fixture `gang` has them."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

from harness import RankFailure
from harness.engine.warm_gangs import WarmGangs
from harness.testing.function_gang import FunctionGang
from harness.testing.warm_pool import WarmPool
from tests.harness.engine import engine_calls


@pytest.fixture(scope="module")
def gangs():
    kept = WarmGangs(WarmPool.get, keep=2)
    yield kept
    kept.close()


def pid_and_sum(factor):
    value = torch.tensor([dist.get_rank() * factor])
    dist.all_reduce(value)
    return os.getpid(), value.item()


def set_a_default():
    torch.set_default_dtype(torch.float64)


def default():
    return torch.get_default_dtype()


def pids(gang):
    return [pid for pid, _ in gang(pid_and_sum, 1)]


def test_values_come_back_in_rank_order_and_ranks_stay(gangs):
    gang = FunctionGang(gangs, 3)
    first = gang(pid_and_sum, 10)
    assert [total for _, total in first] == [30] * 3
    assert len({pid for pid, _ in first}) == 3
    assert gang(pid_and_sum, 10) == first
    gang.release()
    assert FunctionGang(gangs, 3)(pid_and_sum, 10) == first


def test_a_failure_names_the_rank_and_the_next_call_gets_fresh_ranks(gangs):
    gang = FunctionGang(gangs, 2)
    before = pids(gang)
    with pytest.raises(RankFailure, match="KeyError: 'told to, on 1'") as caught:
        gang(engine_calls.raise_on, 1)
    assert list(caught.value.ranks) == [1]
    assert not set(pids(gang)) & set(before)


def test_a_call_over_its_time_names_the_rank_that_is_late(gangs):
    gang = FunctionGang(gangs, 2, timeout=0.5)
    with pytest.raises(RankFailure, match=r"still running after \d+\.\d s"):
        gang(engine_calls.sleep_on, 1)
    assert gang(engine_calls.sleep_everywhere, 0.7, timeout=30) == [None, None]


def test_a_test_that_changes_torchs_defaults_leaves_them_to_no_other(gangs):
    gang = FunctionGang(gangs, 2)
    before = pids(gang)
    gang(set_a_default)
    assert gang(default) == [torch.float64] * 2  # within the test
    gang.release()
    later = FunctionGang(gangs, 2)
    assert later(default) == [torch.float32] * 2
    assert not set(pids(later)) & set(before)


def test_wrong_arguments_are_named(gangs):
    with pytest.raises(ValueError, match="world_size must be at least 1, not 0"):
        FunctionGang(gangs, 0)
    with pytest.raises(ValueError, match="device must be one of cpu, cuda, not 'tpu'"):
        FunctionGang(gangs, 1, device="tpu")
    with pytest.raises(ValueError, match="timeout must be more than 0 seconds, not -1"):
        FunctionGang(gangs, 1)(os.getpid, timeout=-1)
    with pytest.raises(TypeError, match="cannot be sent to the ranks"):
        FunctionGang(gangs, 1)(lambda: None)
