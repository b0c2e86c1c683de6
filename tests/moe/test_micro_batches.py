"""Batches take turns at `switch`, in torch's modes of their caller, and end even if one raises."""

from __future__ import annotations

import threading

import pytest
import torch

from moe import micro_batches

CPU = torch.device("cpu")


def stages(log, name, count):
    def call():
        for stage in range(count):
            log.append(f"{name}{stage}")
            micro_batches.switch()
        return name, torch.is_inference_mode_enabled()

    return call


@pytest.mark.parametrize(
    ("counts", "order"),
    [((3, 3), "a0 b0 a1 b1 a2 b2"), ((1, 3), "a0 b0 b1 b2"), ((3, 0), "a0 a1 a2")],
)
def test_stages_take_turns_until_a_batch_has_ended(counts, order):
    log = []
    with torch.inference_mode():
        calls = [stages(log, name, count) for name, count in zip("ab", counts, strict=True)]
        assert micro_batches.overlapped(calls, CPU) == [("a", True), ("b", True)]
    assert log == order.split()


def test_the_other_batches_end_before_an_exception_is_raised():
    log = []

    def fails():
        micro_batches.switch()
        raise ValueError("broken")

    for calls in ([fails, stages(log, "b", 3)], [stages(log, "a", 3), fails]):
        threads = threading.active_count()
        with pytest.raises(ValueError, match="broken"):
            micro_batches.overlapped(calls, CPU)
        assert threading.active_count() == threads
    assert log == ["b0", "b1", "b2", "a0", "a1", "a2"]


def test_handing_over_does_nothing_outside_and_in_other_threads():
    micro_batches.switch()

    def starts_a_thread():
        other = threading.Thread(target=micro_batches.switch)
        other.start()
        other.join(timeout=5)
        return other.is_alive()

    assert micro_batches.overlapped([starts_a_thread, starts_a_thread], CPU) == [False, False]
