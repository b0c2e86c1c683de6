"""Between the products: one kernel gives the codes and scales of two, and stages are recorded."""

import dataclasses

import torch

from moe import intermediates
from moe.experts import EXPERTS
from moe.quant import QUANT
from tests.moe.kernels.kernel_cases import layer_spec_of, same, weights_of

FUSED = ("fp8_tensor", "fp8_channel", "fp8_block", "int8_channel", "int8_block", "w4a8")
SEPARATE = ("none", "fp8_tensor_dynamic", "mxfp8", "nvfp4", "mxfp4")


def experts_of(name, device, backend="triton"):
    torch.manual_seed(0)
    layer_spec, quant = layer_spec_of(name, m=6), QUANT.load(name)()
    row = EXPERTS.row(backend)
    experts = EXPERTS.load(backend)(layer_spec, 0, row.numerics, quant)
    weights = weights_of(layer_spec, quant, device)
    if name == "nvfp4":
        weights = weights.replace(a2_scale=torch.tensor(500.0, device=device))
    experts.prepare_weights(weights)
    return experts


def both(experts, *args):
    """The activation and codes of a plain call, and those of a recorded one."""
    plain = experts.activated(*args)
    with intermediates.recording():
        return plain, experts.activated(*args)


def test_one_kernel_gives_the_bits_of_two(kernel_device):
    ids = torch.tensor([0, 3, -1, 2, 1], dtype=torch.int32, device=kernel_device)
    used = ids >= 0
    h = torch.randn(5, 256, device=kernel_device).bfloat16()
    for name in FUSED + SEPARATE:
        (stored, got), (activation, wanted) = both(experts_of(name, kernel_device), h, ids)
        assert (stored is None) == (name in FUSED), name
        assert activation is not None
        assert same(got.codes[used], wanted.codes[used]), name
        if wanted.scale is not None:
            by_row = wanted.format.has_row_scales
            scales = (got.scale[used], wanted.scale[used]) if by_row else (got.scale, wanted.scale)
            assert same(*scales), name


def test_batched_rows_too(kernel_device):
    counts = torch.tensor([2, 0, 3], dtype=torch.int32, device=kernel_device)
    slots = torch.tensor([[0, 1, -1], [-1, -1, -1], [2, 3, 4]], dtype=torch.int32)
    h = torch.randn(3, 3, 256, device=kernel_device).bfloat16()
    used = slots.flatten() >= 0
    for name in ("fp8_tensor", "fp8_block"):
        experts = experts_of(name, kernel_device, "triton_batched")
        (_, got), (_, wanted) = both(experts, h, slots.to(kernel_device), counts)
        assert same(got.codes[used], wanted.codes[used])
        assert got.scale.shape == wanted.scale.shape


def test_weights_that_are_changed_are_prepared_again(kernel_device):
    experts = experts_of("mxfp4", kernel_device)
    first = experts.gate_up.codes.clone()
    experts.prepare_weights(dataclasses.replace(experts.weights, w13=experts.weights.w13.flip(1)))
    assert not torch.equal(experts.gate_up.codes, first)
