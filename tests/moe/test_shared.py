"""Shared experts: the plain formula, and shards whose sum over the TP ranks is the whole."""

import pytest
import torch

from moe.layout import Layout
from moe.shared import SharedExperts, shard_shared
from moe.spec import LayerSpec

HIDDEN, WIDTH = 24, 10


def layer_spec(**layout):
    return LayerSpec(
        m=3,
        hidden=HIDDEN,
        intermediate=WIDTH,
        num_experts=4,
        top_k=2,
        shared_experts=1,
        layout=Layout(**layout),
    )


def weights():
    torch.manual_seed(0)
    return torch.randn(2 * WIDTH, HIDDEN), torch.randn(HIDDEN, WIDTH)


def formula(x, w13, w2):
    gate, up = (x.double() @ w13.double().T).chunk(2, dim=1)
    return gate / (1 + torch.exp(-gate)) * up @ w2.double().T


def test_it_is_the_formula():
    w13, w2 = weights()
    x = torch.randn(5, HIDDEN)
    got = SharedExperts(w13=w13, w2=w2).forward(x)
    assert torch.allclose(got.double(), formula(x, w13, w2), rtol=1e-4, atol=1e-4)
    assert SharedExperts(w13=w13, w2=w2).forward(x[:0]).shape == (0, HIDDEN)


def test_the_output_has_the_model_dtype():
    w13, w2 = (w.bfloat16() for w in weights())
    assert SharedExperts(w13=w13, w2=w2).forward(w13[:2]).dtype == torch.bfloat16


@pytest.mark.parametrize("tp_size", [2, 3, 4])
@pytest.mark.parametrize("dp_size", [1, 2])
@pytest.mark.parametrize("use_ep", [False, True])
def test_tp_ranks_add_up_to_the_whole(tp_size, dp_size, use_ep):
    """Uneven where ranks do not divide the columns; the same on every DP rank."""
    asked = layer_spec(tp_size=tp_size, dp_size=dp_size, use_ep=use_ep)
    w13, w2 = weights()
    x = torch.randn(5, HIDDEN)
    for dp_rank in range(dp_size):
        ranks = range(dp_rank * tp_size, (dp_rank + 1) * tp_size)
        parts = [shard_shared(asked, rank, w13, w2) for rank in ranks]
        sizes = [part.w2.shape[1] for part in parts]
        assert sum(sizes) == WIDTH
        assert max(sizes) - min(sizes) <= 1
        total = sum(part.forward(x) for part in parts)
        assert torch.allclose(total.double(), formula(x, w13, w2), rtol=1e-4, atol=1e-4)


def test_under_sequence_parallelism_each_rank_has_all():
    w13, w2 = weights()
    asked = layer_spec(tp_size=2, use_ep=True, sequence_parallel=True)
    for rank in range(2):
        mine = shard_shared(asked, rank, w13, w2)
        assert torch.equal(mine.w13, w13)
        assert torch.equal(mine.w2, w2)
