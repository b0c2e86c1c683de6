"""Which kernels are launched: ours in detail, all others by name, compiled or interpreted."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from moe.kernels import combine as combine_module
from moe.kernels import launch, launch_observer
from moe.kernels.combine import combine


@triton.jit
def _fill(out_ptr, VALUE: tl.constexpr):
    tl.store(out_ptr, VALUE)


@triton.autotune(configs=[triton.Config({"VALUE": 3})], key=[])
@triton.jit
def _tuned_fill(out_ptr, VALUE: tl.constexpr):
    tl.store(out_ptr, VALUE)


def launch_one(device):
    one = torch.ones(1, 1, device=device)
    combine(one, one, torch.zeros(1, 1, dtype=torch.int32, device=device))


def test_launches_are_recorded_inside_only_and_in_each_record(kernel_device):
    launch_one(kernel_device)
    with launch_observer.observed() as outer:
        with launch_observer.observed() as inner:
            pass
        launch_one(kernel_device)
        launch_one(kernel_device)
    launch_one(kernel_device)
    (line,) = outer
    assert line.startswith("_combine(float32 float32 int32 float32) [SLOTS=1 ")
    assert not inner


def test_a_record_ends_with_an_exception(kernel_device):
    with pytest.raises(RuntimeError, match="stop"), launch_observer.observed() as lines:
        raise RuntimeError("stop")
    launch_one(kernel_device)
    assert not lines


def test_no_programs_are_no_launch(kernel_device):
    with launch_observer.observed() as lines:
        launch.launch(combine_module._combine, (0,), kernel_device)
    assert not lines


def test_a_kernel_that_somebody_else_launches_is_named(kernel_device):
    out = torch.zeros(1, device=kernel_device)
    with launch_observer.observed() as lines:
        _fill[(1,)](out, VALUE=2)
        launch_one(kernel_device)
    assert out.item() == 2
    assert [line.partition("(")[0] for line in lines] == ["_fill", "_combine"]


def test_a_kernel_below_an_autotuner_is_named(kernel_device):
    out = torch.zeros(1, device=kernel_device)
    with launch_observer.observed() as lines:
        _tuned_fill[(1,)](out)
    assert out.item() == 3
    assert list(lines) == ["_tuned_fill()"]


def test_nothing_of_triton_stays_changed(kernel_device):
    before = JITFunction.run, InterpretedFunction.run
    with launch_observer.observed(), launch_observer.observed():
        assert before != (JITFunction.run, InterpretedFunction.run)
    assert before == (JITFunction.run, InterpretedFunction.run)
