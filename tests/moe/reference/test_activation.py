"""The reference's activation at its limit, and without a gate."""

from __future__ import annotations

import torch

from moe.reference.activation import activation_of

CLAMPED = activation_of("swiglu_clamped")


def test_noise_that_reaches_the_limit_passes_through_from_beyond_it():
    gate = torch.tensor([6.9, 7.05, 7.2])
    reach = torch.full_like(gate, 0.1)
    assert [s > 0 for s in CLAMPED.of_gate(gate).slope] == [True, False, False]
    assert [s > 0 for s in CLAMPED.of_gate(gate, reach).slope] == [True, True, False]
    up = torch.tensor([-7.2, -7.05, 6.9, 7.05, 7.2])
    assert CLAMPED.of_up(up, torch.full_like(up, 0.1)).slope.tolist() == [0, 1, 1, 1, 0]
    assert CLAMPED.of_up(up).slope.tolist() == [0, 0, 1, 0, 0]


def test_without_a_gate_the_product_is_not_split():
    product = torch.randn(3, 4)
    gate, up = activation_of("silu_no_mul").split(product)
    assert gate is product
    assert up is None
    gate, up = activation_of("silu").split(product)
    assert torch.equal(torch.cat([gate, up], dim=1), product)
