"""The sum of the reference: what the shared experts add, with their error."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from moe.numerics import Numerics
from moe.reference.result import empty_sums
from moe.reference.shared_experts import SharedPart
from moe.reference.total import answer_of, passed_through
from moe.spec import LayerSpec

TOKENS, HIDDEN = 3, 8
SPEC = LayerSpec(m=TOKENS, hidden=HIDDEN, intermediate=8, num_experts=2, top_k=1)


def answer(shared):
    torch.manual_seed(0)
    x = torch.randn(TOKENS, HIDDEN)
    sums = empty_sums(x, 1, 1, None)
    sums.partial += torch.randn(1, TOKENS, HIDDEN)
    sums.variance += 0.5
    return answer_of(sums, x, shared, Numerics.stated(), SPEC), sums, x


def test_without_shared_experts_it_is_the_sum_over_the_ranks():
    result, sums, x = answer(None)
    assert torch.equal(result.out, sums.partial[0])
    assert result.shared is None
    assert float(result.amax1) == float(x.abs().amax())
    assert bool((result.variance > 0.5).all())  # and a rounding
    assert result.along.shape == (4, TOKENS)


def test_shared_experts_add_output_variance_flips_and_their_part_along():
    part = SharedPart(
        out=torch.full((TOKENS, HIDDEN), 2.0),
        variance=torch.full((TOKENS,), 7.0),
        flips=torch.full((TOKENS,), 3.0),
        along=torch.full((3, TOKENS), 5.0),
        parts=torch.zeros(1, TOKENS, HIDDEN),
    )
    (plain, _, _), (result, _, _) = answer(None), answer(part)
    assert torch.equal(result.out, plain.out + 2)
    assert torch.equal(result.shared, part.out)
    assert torch.equal(result.flips, plain.flips + 3)
    assert torch.equal(result.along[:3], plain.along[:3] + 5)
    assert bool((result.variance > plain.variance + 6.9).all())


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_zero_experts_may_differ_by_their_float32_products(dtype):
    """A row of zero experts alone has no other error."""
    torch.manual_seed(0)
    x = torch.randn(TOKENS, HIDDEN)
    ids = torch.tensor([[2, 3], [3, 2], [2, 2]])
    weights = torch.rand(TOKENS, 2)
    passed = passed_through(x, ids, weights, 2)
    assert torch.allclose(passed, weights.sum(dim=1, keepdim=True) * x)
    sums, spec = empty_sums(x, 2, 1, None), dataclasses.replace(SPEC, dtype=dtype, zero_experts=2)
    result = answer_of(sums, x, None, Numerics.stated(), spec, passed)
    assert torch.equal(result.out, passed)
    size = (result.variance / passed.square().sum(dim=1)).sqrt()
    least, largest = (2.0**-23, 2.0**-20) if dtype == "f32" else (2.0**-11, 2.0**-7)
    assert bool(((size > least) & (size < largest)).all())
    assert bool((result.along[2] > 0).all())
