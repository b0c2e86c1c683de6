"""Loads of experts: those of the calls in the window, by the placement of each call."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harness.checks.expert_loads import CHECK
from harness.record.result import Verdict
from moe.eplb.load import LoadWindow
from moe.intermediates import Kept
from moe.placement import Placement

HOME = Placement(num_experts=3, physical_to_logical=(0, 1, 2, 0), counts=(2, 2))
AWAY = Placement(num_experts=3, physical_to_logical=(1, 2, 0, 1), counts=(2, 2))
IDS = (torch.tensor([[0, -1], [1, 0]]), torch.tensor([[1, 1]]), torch.tensor([[-1, 0]]))
PLACEMENTS = (HOME, HOME, AWAY)


def window(size):
    """The loads of EP rank 1, recorded as a layer does."""
    load = LoadWindow(3, size, torch.device("cpu"))
    for ids, placement in zip(IDS, PLACEMENTS, strict=True):
        load.follow(placement, 1)
        load.record(ids)
    return load


def observation(load, how="eager", stage="ids"):
    calls = [
        SimpleNamespace(number=i, placement=placement, stages={stage: Kept(value=ids.int())})
        for i, (ids, placement) in enumerate(zip(IDS, PLACEMENTS, strict=True))
    ]
    balancing = load and SimpleNamespace(slots=SimpleNamespace(load=load, ep_rank=1))
    subject = SimpleNamespace(balancing=balancing, case=SimpleNamespace(call=how))
    return SimpleNamespace(subject=subject, calls=calls)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_loads_of_the_last_calls_are_no_finding(size):
    assert CHECK.run(observation(window(size))) == ()


def test_a_call_that_left_the_window_is_no_longer_counted():
    load = window(2)
    load.calls[0] += torch.tensor([0, 0, 2])  # the first call had two rows of expert 2
    (finding,) = CHECK.run(observation(load))
    assert (finding.verdict, finding.call) == (Verdict.FAILED, 2)
    assert finding.text.startswith(
        "loads: expert 2 counts 2 rows on this rank, and the last 2 of 3 call(s) had 0: replace"
    )


def test_counts_by_another_placement_are_told():
    load = LoadWindow(3, 1, torch.device("cpu"))
    load.follow(HOME, 1)  # slot 0 of rank 1 had expert 2 before the rebalance, and has 0 now
    load.record(IDS[2])
    assert "expert 0 counts 0 rows" in CHECK.run(observation(load))[0].text


def test_what_the_balancer_is_told_is_the_sum_of_the_window():
    load = window(2)
    load.total = lambda group: load.calls[load._next - 1].tolist()  # of the last call alone
    (finding,) = CHECK.run(observation(load))
    text = "loads: expert 0 is reported with 1 rows on this rank, and the last 2 of 3 call(s) had 3"
    assert finding.text.startswith(text), finding.text
    assert finding.text.endswith(": add up all calls of the window for the balancer")


def test_only_layers_that_run_once_for_each_call_are_judged():
    load = window(1)
    assert CHECK.applies(observation(load))
    assert not CHECK.applies(observation(load, how="two_batches"))
    assert not CHECK.applies(observation(load, stage="tokens"))
    assert not CHECK.applies(observation(None))
