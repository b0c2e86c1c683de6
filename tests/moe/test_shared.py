"""Shared experts: the plain formula, and shards whose sum over the TP ranks is the whole."""

import pytest
import torch

from moe.layout import Layout
from moe.quant import QUANT
from moe.shared import FusedShared, SharedExperts, plain_product, shard_shared
from moe.spec import LayerSpec, Scheme
from moe.types import ExpertWeights, Routing

HIDDEN, WIDTH = 24, 10


NONE = QUANT.load("none")()


def shared(w13, w2, **fields):
    weights = ExpertWeights(w13=w13[None], w2=w2[None])
    return SharedExperts(weights=weights, quant=NONE, **fields)


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
    got = shared(w13, w2).forward(x)
    assert torch.allclose(got.double(), formula(x, w13, w2), rtol=1e-4, atol=1e-4)
    assert shared(w13, w2).forward(x[:0]).shape == (0, HIDDEN)


def test_the_output_has_the_model_dtype():
    w13, w2 = (w.bfloat16() for w in weights())
    assert shared(w13, w2).forward(w13[:2]).dtype == torch.bfloat16


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
        parts = [shard_shared(asked, rank, w13, w2, quant=NONE) for rank in ranks]
        sizes = [part.weights.w2.shape[2] for part in parts]
        assert sum(sizes) == WIDTH
        assert max(sizes) - min(sizes) <= 1
        total = sum(part.forward(x) for part in parts)
        assert torch.allclose(total.double(), formula(x, w13, w2), rtol=1e-4, atol=1e-4)


def test_under_sequence_parallelism_each_rank_has_all():
    w13, w2 = weights()
    asked = layer_spec(tp_size=2, use_ep=True, sequence_parallel=True)
    for rank in range(2):
        mine = shard_shared(asked, rank, w13, w2, quant=NONE)
        assert torch.equal(mine.weights.w13[0], w13)
        assert torch.equal(mine.weights.w2[0], w2)


def test_a_gate_multiplies_each_rank_s_part():
    w13, w2 = weights()
    x, gate = torch.randn(5, HIDDEN), torch.randn(1, HIDDEN)
    asked = layer_spec(tp_size=2)
    parts = [shard_shared(asked, rank, w13, w2, quant=NONE, gate=gate) for rank in range(2)]
    factor = 1 / (1 + torch.exp(-(x.double() @ gate.double().T)))
    wanted = formula(x, w13, w2) * factor
    total = sum(part.forward(x) for part in parts)
    assert torch.allclose(total.double(), wanted, rtol=1e-4, atol=1e-4)


def test_a_quantized_one_multiplies_codes():
    """Weights are quantized before they are sharded, the intermediate after."""
    torch.manual_seed(0)
    w13, w2 = torch.randn(2 * 256, 128) / 11, torch.randn(128, 256)
    w13, w2 = w13.bfloat16(), w2.bfloat16()
    quant = QUANT.load("fp8_block")()
    scheme = Scheme(weights="fp8_block", activations="fp8_group")
    asked = LayerSpec(
        m=3, hidden=128, intermediate=256, num_experts=4, top_k=2, shared_experts=1,
        shared_scheme=scheme, layout=Layout(tp_size=2),
    )  # fmt: skip
    x = torch.randn(5, 128).bfloat16()
    parts = [shard_shared(asked, rank, w13, w2, quant=quant) for rank in range(2)]
    assert [part.weights.w13.dtype for part in parts] == [torch.float8_e4m3fn] * 2
    total = sum(part.forward(x).double() for part in parts)
    right = formula(x, w13, w2)
    error = float((total - right).norm() / right.norm())
    assert 0.03 < error < 0.1  # four roundings to fp8, of about .03 each


@pytest.mark.parametrize("name", ["nvfp4_dynamic", "fp8_block"])
def test_padding_rows_change_no_other_row(name):
    """Not even where one scale spans all rows."""
    torch.manual_seed(0)
    w13, w2 = torch.randn(2 * 128, 128).bfloat16() / 11, torch.randn(128, 128).bfloat16()
    quant = QUANT.load(name)()
    asked = layer_spec()
    part = shard_shared(asked, 0, w13, w2, quant=quant)
    x = torch.randn(6, 128).bfloat16()
    is_padding = torch.arange(6) >= 4
    garbage = x.masked_fill(is_padding[:, None], 3e4)
    right, got = (part.forward(part.seen(of, is_padding))[:4] for of in (x, garbage))
    assert torch.equal(right, got)
    assert torch.equal(part.seen(garbage, None), garbage)
    changed = not torch.equal(part.forward(garbage)[:4], got)
    assert changed == (name == "nvfp4_dynamic"), "else this test proves nothing"


@pytest.mark.parametrize("gated", [False, True])
def test_fused_ones_are_in_every_row_s_slots(gated):
    torch.manual_seed(0)
    x = torch.randn(3, HIDDEN)
    gate = torch.randn(1, HIDDEN) if gated else None
    routing = Routing(
        topk_ids=torch.tensor([[3, 0], [1, 2], [0, 1]], dtype=torch.int32),
        topk_weights=torch.rand(3, 2),
    )
    made = FusedShared(first=4, count=2, gate=gate).add_to(x, routing)
    assert made.topk_ids.dtype == torch.int32
    assert made.topk_ids[:, 2:].tolist() == [[4, 5]] * 3
    assert torch.equal(made.topk_ids[:, :2], routing.topk_ids)
    factor = torch.sigmoid(x @ gate.T) if gated else torch.ones(3, 1)
    assert torch.allclose(made.topk_weights[:, 2:], factor.expand(3, 2))
    assert torch.equal(made.topk_weights[:, :2], routing.topk_weights)


@pytest.mark.parametrize("columns", [65, 100])
def test_what_follows_a_row_of_a_wider_tensor_is_not_read(columns):
    """oneDNN's bf16 product of 19 rows of odd length does; see docs/found.md."""
    wide = torch.full((19, columns + 1), float("nan"), dtype=torch.bfloat16)
    x = wide[:, :columns]
    x.fill_(1)
    product = plain_product(x, torch.ones(64, columns, dtype=torch.bfloat16))
    assert torch.equal(product, torch.full((19, 64), columns, dtype=torch.bfloat16))


@pytest.mark.parametrize("columns", [65, 100, 128, 200])
def test_a_row_of_nan_is_in_no_other_row(columns):
    """oneDNN's bf16 product of rows that are no multiple of 32 long reads the start of the next."""
    x = torch.ones(64, columns, dtype=torch.bfloat16)
    x[1::4] = float("nan")
    is_nan = plain_product(x, torch.ones(32, columns, dtype=torch.bfloat16)).isnan().any(dim=1)
    assert is_nan.nonzero().flatten().tolist() == list(range(1, 64, 4))
