"""The activation of the gate, times up, against its twin."""

import math

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels.silu_mul import silu_mul, silu_mul_torch

SMALLEST = 2.0**-100  # below, an exponential is on its way to zero in steps


def gelu_tanh(x):
    return x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _ulp_apart(a, b):
    """How many bf16 values lie between two bf16 tensors, at most."""
    return int((a.view(torch.int16).int() - b.view(torch.int16).int()).abs().max())


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(("rows", "columns"), [(64, 256), (5, 1500), (1, 3)])
def test_kernel_and_twin_differ_by_one_rounding_at_most(rows, columns, activation, kernel_device):
    torch.manual_seed(0)
    h = (torch.randn(rows, 2 * columns, device=kernel_device) * 3).bfloat16()
    with guarded_buffers.poisoned():
        got = silu_mul(h, activation=activation)
        assert guarded_buffers.broken_guards() == []
    wanted = silu_mul_torch(h, activation=activation)
    got, wanted = (torch.where(t.abs() < SMALLEST, 0.0, t) for t in (got, wanted))
    assert _ulp_apart(got, wanted) <= 1
    assert float((got != wanted).float().mean()) < 0.01


@pytest.mark.parametrize("do", [silu_mul, silu_mul_torch])
def test_gate_comes_first(do, kernel_device):
    h = torch.tensor([[1.0, -2.0, 10.0, 20.0]], device=kernel_device)
    assert do(h)[0].tolist() == pytest.approx([7.310586, -4.768117], rel=3e-6)


@pytest.mark.parametrize("do", [silu_mul, silu_mul_torch])
def test_gelu_is_the_tanh_form_and_loses_no_digits_of_its_tail(do, kernel_device):
    gate = torch.tensor([1.0, -1.0, 0.0, -4.0, -200.0, 3e38], device=kernel_device)
    h = torch.cat([gate, torch.ones_like(gate)])[None]
    wanted = [gelu_tanh(x) for x in (1.0, -1.0, 0.0, -4.0)] + [0.0, 3e38]
    assert do(h, activation="gelu_tanh")[0].tolist() == pytest.approx(wanted, rel=4e-6, abs=0)


@pytest.mark.parametrize("do", [silu_mul, silu_mul_torch])
def test_an_activation_that_the_kernel_lacks_is_refused(do, kernel_device):
    text = "the kernel does not support activation 'relu', only silu, gelu_tanh"
    with pytest.raises(MoEError, match=text):
        do(torch.zeros(1, 2, device=kernel_device), activation="relu")


@pytest.mark.parametrize("do", [silu_mul, silu_mul_torch])
def test_large_gates_neither_overflow_nor_vanish(do, kernel_device):
    h = torch.tensor([[200.0, -200.0, 3e38, 1.0, 1.0, 0.5]], device=kernel_device)
    assert do(h)[0].tolist() == pytest.approx([200.0, 0.0, 1.5e38], rel=3e-6)


@pytest.mark.parametrize("do", [silu_mul, silu_mul_torch])
def test_unused_rows_are_neither_read_nor_written(do, kernel_device):
    h = torch.randn(6, 32, device=kernel_device)
    h[1::2] = float("inf")
    ids = torch.tensor([[0, -1], [3, -1], [1, -1]], dtype=torch.int32, device=kernel_device)
    with guarded_buffers.poisoned():
        got = do(h, ids)
    assert bool(got[1::2].isnan().all())
    assert torch.equal(got[::2], do(h)[::2])


def test_the_output_may_be_kept_in_float32(kernel_device):
    h = torch.randn(4, 64, device=kernel_device).bfloat16()
    exact = silu_mul(h, dtype=torch.float32)
    assert exact.dtype == torch.float32
    assert torch.equal(exact.bfloat16(), silu_mul(h))
    assert silu_mul(h[:0]).shape == (0, 32)
