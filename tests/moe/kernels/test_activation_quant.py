"""The activation fused with quantization, against its twin and against the two kernels."""

import pytest
import torch

from moe import guarded_buffers
from moe.activations import ACTIVATIONS
from moe.errors import MoEError
from moe.kernels.activation import activate, activate_torch
from moe.kernels.activation_quant import (
    activate_quantize,
    activate_quantize_torch,
)
from moe.kernels.quantize import MAX, quantize_rows, quantize_tensor

NAMES = [row.name for row in ACTIVATIONS.built_in]
SCOPES = ["tensor", "row", "group"]


def rows_of(activation, device, rows=37, columns=200):
    torch.manual_seed(0)
    wide = columns * (2 if ACTIVATIONS.row(activation).gated else 1)
    return (torch.randn(rows, wide, device=device) * 2).bfloat16()


def scaling(scope, device):
    if scope == "tensor":
        return {"scale": torch.tensor(0.03, device=device)}
    return {"group": 128 if scope == "group" else None}


def assert_codes_differ_at_ties_only(got, wanted, value):
    """Assert that a code that differs is the other neighbour of a tie, and that there are few.

    value: [R, n] float32, which kernel and twin compute by different code, to a few bits.
    """
    assert torch.allclose(got[1], wanted[1], rtol=2e-6, atol=0)
    apart = got[0].float() != wanted[0].float()
    assert float(apart.float().mean()) < 1e-3
    spread = wanted[1] if wanted[1].dim() == 0 else wanted[1].repeat_interleave(128, dim=1)
    spread = spread if spread.dim() == 0 or spread.shape[1] >= value.shape[1] else wanted[1]
    ratio = value / (spread if spread.dim() == 0 else spread[:, : value.shape[1]])
    tie = (got[0].float() + wanted[0].float()) / 2
    assert bool(((ratio - tie).abs() <= 4e-6 * tie.abs())[apart].all())


@pytest.mark.parametrize("kind", MAX)
@pytest.mark.parametrize("scope", SCOPES)
def test_kernel_and_twin_differ_in_codes_at_ties_only(scope, kind, kernel_device):
    for activation in ("silu", "swiglu_clamped", "relu2_no_mul"):
        h = rows_of(activation, kernel_device, rows=300)
        options = {"activation": activation, "kind": kind, **scaling(scope, kernel_device)}
        with guarded_buffers.poisoned():
            got = activate_quantize(h, **options)
            assert guarded_buffers.broken_guards() == []
        value = activate_torch(h, dtype=torch.float32, activation=activation)
        assert_codes_differ_at_ties_only(got, activate_quantize_torch(h, **options), value)


def test_a_value_on_a_tie_is_the_only_one_whose_code_can_differ():
    """The check sees a code that is another neighbour than a tie's."""
    value = torch.tensor([[2.5 - 1e-6, 1.7, 7.0]]).repeat(600, 1)
    wanted = (torch.tensor([[2, 2, 7]]).repeat(600, 1).char(), torch.ones(()))
    tie, other = (wanted[0].clone() for _ in range(2))
    tie[0, 0], other[0, 1] = 3, 1
    assert_codes_differ_at_ties_only((tie, wanted[1]), wanted, value)
    with pytest.raises(AssertionError):
        assert_codes_differ_at_ties_only((other, wanted[1]), wanted, value)


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("scope", SCOPES)
def test_rounded_in_between_it_has_the_bits_of_the_two_kernels(activation, scope, kernel_device):
    h = rows_of(activation, kernel_device, rows=9)
    options = scaling(scope, kernel_device)
    fused = activate_quantize(h, activation=activation, kind="fp8", dtype=torch.bfloat16, **options)
    value = activate(h, activation=activation)
    if scope == "tensor":
        wanted = quantize_tensor(value, options["scale"], "fp8"), options["scale"]
    else:
        wanted = quantize_rows(value, "fp8", options["group"])
    assert torch.equal(fused[0].view(torch.uint8), wanted[0].view(torch.uint8))
    assert torch.equal(fused[1], wanted[1])


def test_without_rounding_in_between_codes_are_of_the_float32_values(kernel_device):
    """So a member that uses it states `activation="f32"`."""
    h = rows_of("silu", kernel_device)
    options = {"activation": "silu", "kind": "fp8", "scale": torch.tensor(0.03).to(kernel_device)}
    whole = activate_quantize(h, **options)[0].view(torch.uint8)
    rounded = activate_quantize(h, dtype=torch.bfloat16, **options)[0].view(torch.uint8)
    assert 0 < float((whole != rounded).float().mean()) < 0.1
    exact = activate(h, dtype=torch.float32)
    assert torch.equal(whole, quantize_tensor(exact, options["scale"], "fp8").view(torch.uint8))


@pytest.mark.parametrize("do", [activate_quantize, activate_quantize_torch])
@pytest.mark.parametrize("scope", SCOPES)
def test_rows_that_are_not_in_use_are_neither_read_nor_written(do, scope, kernel_device):
    h = rows_of("silu", kernel_device, rows=6)
    ids = torch.tensor([[0, -1], [3, -1], [1, -1]], dtype=torch.int32, device=kernel_device)
    options = {"activation": "silu", "kind": "fp8", **scaling(scope, kernel_device)}
    clean = do(h, **options)
    h[1::2] = float("nan")
    with guarded_buffers.poisoned():
        codes, scale = do(h, ids, **options)
    assert torch.equal(codes[::2].view(torch.uint8), clean[0][::2].view(torch.uint8))
    assert bool(codes[1::2].float().isnan().all()), "poison"
    if scope != "tensor":
        assert torch.equal(scale[::2], clean[1][::2])
        assert bool(scale[1::2].isnan().all())


@pytest.mark.parametrize("do", [activate_quantize, activate_quantize_torch])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_batched_row_is_the_contiguous_one(do, scope, kernel_device):
    h = rows_of("swiglu_clamped", kernel_device, rows=15).view(3, 5, -1)
    counts = torch.tensor([0, 5, 2], dtype=torch.int32, device=kernel_device)
    options = {"activation": "swiglu_clamped", "kind": "int8", **scaling(scope, kernel_device)}
    whole, whole_scale = do(h.flatten(0, 1), **options)
    for expert, count in enumerate(counts.tolist()):
        h[expert, count:] = float("nan")
    codes, scale = do(h, counts=counts, **options)
    for expert, count in enumerate(counts.tolist()):
        rows = slice(5 * expert, 5 * expert + count)
        assert torch.equal(codes[expert, :count], whole[rows])
        assert scope == "tensor" or torch.equal(scale[expert, :count], whole_scale[rows])


@pytest.mark.parametrize("do", [activate_quantize, activate_quantize_torch])
def test_a_static_scale_is_one_number_and_has_no_groups(do, kernel_device):
    h = rows_of("silu", kernel_device, rows=2)
    one = torch.ones((), device=kernel_device)
    with pytest.raises(MoEError, match="group is 128; leave one of both out"):
        do(h, activation="silu", kind="fp8", scale=one, group=128)
    with pytest.raises(MoEError, match=r"scale is \[2\] of torch.float32; it must be one torch"):
        do(h, activation="silu", kind="fp8", scale=one.expand(2))
    codes, scale = do(h[:0], activation="silu", kind="fp8")
    assert (codes.shape, scale.shape) == ((0, 200), (0, 1))
