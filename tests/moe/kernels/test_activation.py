"""The activation kernels against their twins."""

import math

import pytest
import torch

from moe import guarded_buffers
from moe.activations import ACTIVATIONS
from moe.errors import MoEError
from moe.kernels.activation import (
    activate,
    activate_batched,
    activate_batched_torch,
    activate_torch,
)

SMALLEST = 2.0**-100  # below, an exponential is on its way to zero in steps
NAMES = [row.name for row in ACTIVATIONS.built_in]
BOTH = [activate, activate_torch]
BOTH_BATCHED = [activate_batched, activate_batched_torch]


def gelu_tanh(x):
    return x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def halves(name):
    return 2 if ACTIVATIONS.row(name).gated else 1


def _ulp_apart(a, b):
    """How many bf16 values lie between two bf16 tensors, at most."""
    return int((a.view(torch.int16).int() - b.view(torch.int16).int()).abs().max())


def _assert_one_rounding_apart(got, wanted):
    got, wanted = (torch.where(t.abs() < SMALLEST, 0.0, t) for t in (got, wanted))
    assert _ulp_apart(got, wanted) <= 1
    assert float((got != wanted).float().mean()) < 0.01


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize(("rows", "columns"), [(64, 256), (5, 1500), (1, 3)])
def test_kernel_and_twin_differ_by_one_rounding_at_most(rows, columns, activation, kernel_device):
    torch.manual_seed(0)
    wide = halves(activation) * columns
    h = (torch.randn(rows, wide, device=kernel_device) * 3).bfloat16()
    if activation.startswith("gelu"):  # 1 + erf(t) has no digits far below zero
        h = h.clamp(min=-3)
    with guarded_buffers.poisoned():
        got = activate(h, activation=activation)
        assert guarded_buffers.broken_guards() == []
    _assert_one_rounding_apart(got, activate_torch(h, activation=activation))


@pytest.mark.parametrize("do", BOTH)
def test_gate_comes_first(do, kernel_device):
    h = torch.tensor([[1.0, -2.0, 10.0, 20.0]], device=kernel_device)
    assert do(h)[0].tolist() == pytest.approx([7.310586, -4.768117], rel=3e-6)


@pytest.mark.parametrize("do", BOTH)
def test_without_a_gate_every_column_is_activated(do, kernel_device):
    h = torch.tensor([[1.0, -2.0, 10.0]], device=kernel_device)
    wanted = pytest.approx([0.7310586, -0.2384058, 9.999546], rel=3e-6)
    assert do(h, activation="silu_no_mul")[0].tolist() == wanted
    assert do(h, activation="relu2_no_mul")[0].tolist() == [1.0, 0.0, 100.0]


@pytest.mark.parametrize("do", BOTH)
def test_limit_alpha_and_beta_are_the_rows(do, kernel_device):
    gate = torch.tensor([1.0, 9.0, 1.0, -9.0], device=kernel_device)
    up = torch.tensor([2.0, 2.0, -9.0, 9.0], device=kernel_device)
    f = [x / (1 + math.exp(-1.702 * x)) for x in (1, 7, 1, -9)]
    wanted = [f[0] * 3, f[1] * 3, f[2] * -6, f[3] * 8]
    got = do(torch.cat([gate, up])[None], activation="swiglu_clamped")[0]
    assert got.tolist() == pytest.approx(wanted, rel=4e-6)


@pytest.mark.parametrize("do", BOTH)
def test_gelu_tanh_loses_no_digits_of_its_tail(do, kernel_device):
    gate = torch.tensor([1.0, -1.0, 0.0, -4.0, -200.0, 3e38], device=kernel_device)
    h = torch.cat([gate, torch.ones_like(gate)])[None]
    wanted = [gelu_tanh(x) for x in (1.0, -1.0, 0.0, -4.0)] + [0.0, 3e38]
    assert do(h, activation="gelu_tanh")[0].tolist() == pytest.approx(wanted, rel=4e-6, abs=0)


@pytest.mark.parametrize("do", BOTH)
def test_gelu_is_the_erf_form(do, kernel_device):
    h = torch.tensor([[1.0, -1.0, 2.0]], device=kernel_device)
    wanted = [x * math.erfc(-x / math.sqrt(2)) / 2 for x in (1, -1, 2)]
    assert do(h, activation="gelu_no_mul")[0].tolist() == pytest.approx(wanted, rel=2e-6)


@pytest.mark.parametrize("do", BOTH)
def test_nan_stays_nan_past_the_limit(do, kernel_device):
    h = torch.full((1, 4), math.nan, device=kernel_device)
    for name in NAMES:
        assert bool(do(h, activation=name).isnan().all())


@pytest.mark.parametrize("do", BOTH)
def test_an_activation_that_the_kernels_lack_is_refused(do, kernel_device, monkeypatch):
    import dataclasses

    row = dataclasses.replace(ACTIVATIONS.row("silu"), name="other", function=None)
    monkeypatch.setattr(ACTIVATIONS, "row", lambda name: row)
    with pytest.raises(MoEError, match="do not compute activation 'other', whose row has function"):
        do(torch.zeros(1, 2, device=kernel_device), activation="other")


@pytest.mark.parametrize("do", BOTH)
def test_an_odd_number_of_columns_has_no_halves(do, kernel_device):
    with pytest.raises(MoEError, match="h has 3 columns, which is odd"):
        do(torch.zeros(1, 3, device=kernel_device))


@pytest.mark.parametrize("do", BOTH)
def test_large_gates_neither_overflow_nor_vanish(do, kernel_device):
    h = torch.tensor([[200.0, -200.0, 3e38, 1.0, 1.0, 0.5]], device=kernel_device)
    assert do(h)[0].tolist() == pytest.approx([200.0, 0.0, 1.5e38], rel=3e-6)


@pytest.mark.parametrize("do", BOTH)
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
    exact = activate(h, dtype=torch.float32)
    assert exact.dtype == torch.float32
    assert torch.equal(exact.bfloat16(), activate(h))
    assert activate(h[:0]).shape == (0, 32)


# --- batched by expert


def batched(device, experts=3, capacity=5, columns=48):
    h = (torch.randn(experts, capacity, columns, device=device) * 2).bfloat16()
    return h, torch.tensor([0, capacity, 2][:experts], dtype=torch.int32, device=device)


@pytest.mark.parametrize("activation", ["silu", "swiglu_clamped", "relu2_no_mul"])
@pytest.mark.parametrize("do", BOTH_BATCHED)
def test_a_batched_row_is_the_contiguous_one(do, activation, kernel_device):
    h, counts = batched(kernel_device)
    with guarded_buffers.poisoned():
        got = do(h, counts, activation=activation)
        assert guarded_buffers.broken_guards() == []
    plain = BOTH[BOTH_BATCHED.index(do)](h.flatten(0, 1), activation=activation)
    for expert, count in enumerate(counts.tolist()):
        rows = slice(expert * h.shape[1], expert * h.shape[1] + count)
        assert torch.equal(got[expert, :count], plain[rows])
        assert bool(got[expert, count:].isnan().all()), "not written"


@pytest.mark.parametrize("do", BOTH_BATCHED)
def test_rows_beyond_the_count_are_not_read(do, kernel_device):
    h, counts = batched(kernel_device)
    changed = h.clone()
    for expert, count in enumerate(counts.tolist()):
        changed[expert, count:] = float("nan")
    for expert, count in enumerate(counts.tolist()):
        assert torch.equal(do(changed, counts)[expert, :count], do(h, counts)[expert, :count])


@pytest.mark.parametrize("do", BOTH_BATCHED)
def test_counts_of_another_shape_or_type_are_refused(do, kernel_device):
    h, counts = batched(kernel_device)
    for wrong in (counts[:2], counts.long()):
        with pytest.raises(MoEError, match=r"batched rows are \[3, 5, 48\] with counts"):
            do(h, wrong)
    assert do(h[:, :0], counts * 0).shape == (3, 0, 24)
