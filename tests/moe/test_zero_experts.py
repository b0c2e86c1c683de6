"""Zero-computation experts: the token itself, times the sum of its weights of their ids."""

import torch

from moe.types import Routing
from moe.zero_experts import with_zero_experts


def routing(ids, weights):
    ids = torch.tensor(ids, dtype=torch.int32)
    return Routing(topk_ids=ids, topk_weights=torch.tensor(weights, dtype=torch.float32))


def test_each_slot_of_one_adds_its_weight_times_the_token():
    x, out = torch.randn(4, 8), torch.randn(4, 8)
    chosen = routing([[4, 0], [5, 6], [1, 3], [-1, -1]], [[0.5, 0.5], [0.25, 0.5], [1, 2], [3, 3]])
    made = with_zero_experts(out, x, chosen, 4)
    factor = torch.tensor([[0.5], [0.75], [0.0], [0.0]])
    assert torch.allclose(made, out + factor * x)
    assert torch.equal(made[2:], out[2:])  # no zero expert, and padding


def test_it_is_rounded_once():
    x, out = torch.randn(64, 32).bfloat16(), torch.randn(64, 32).bfloat16()
    chosen = routing([[1]] * 64, [[0.3]] * 64)
    made = with_zero_experts(out, x, chosen, 1)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, (out.float() + torch.tensor(0.3) * x.float()).bfloat16())
    assert with_zero_experts(
        out[:0],
        x[:0],
        routing([], []).__class__(
            topk_ids=chosen.topk_ids[:0], topk_weights=chosen.topk_weights[:0]
        ),
        1,
    ).shape == (0, 32)
