"""What is started runs when it is asked for, unless there is a stream for it."""

from __future__ import annotations

import pytest
import torch

from moe import side_stream


def test_without_a_stream_the_function_runs_when_its_result_is_asked_for():
    ran = []

    def function(x):
        ran.append(x)
        return x * 2

    pending = side_stream.start(function, torch.ones(2))
    assert ran == []
    assert pending().tolist() == [2, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams need a GPU")
def test_a_result_of_the_side_stream_is_waited_for():
    device = torch.device("cuda")
    x = torch.zeros(1 << 20, device=device)
    with side_stream.used(torch.cuda.Stream(device)):
        torch.cuda._sleep(1 << 24)
        x.add_(1)  # queued behind the sleep: the side stream must wait for it
        pending = side_stream.start(slowly_doubled, x)
        result = pending() + 0
    assert bool((result == 2).all())


def slowly_doubled(x):
    torch.cuda._sleep(1 << 24)
    return x * 2
