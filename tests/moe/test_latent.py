"""Projections of a latent layer: the plain formula, around experts that work on L columns."""

import pytest
import torch

from moe import expert_shards, layer
from moe.collectives import ALONE, Groups
from moe.errors import MoEError
from moe.latent import LatentProjections, check_projections
from moe.quant import QUANT
from moe.spec import LayerSpec
from tests.moe.test_layer import members

HIDDEN, LATENT = 48, 32
SPEC = LayerSpec(
    m=3, hidden=HIDDEN, intermediate=16, num_experts=4, top_k=2, latent=LATENT, dtype="f32"
)


def projections():
    torch.manual_seed(0)
    return LatentProjections(down=torch.randn(LATENT, HIDDEN), up=torch.randn(HIDDEN, LATENT))


def build(latent):
    torch.manual_seed(1)
    w13, w2 = torch.randn(4, 32, LATENT), torch.randn(4, LATENT, 16)
    quant = QUANT.load("none")()
    weights = expert_shards.shard_weights(SPEC, 0, quant, w13, w2)
    groups = Groups(gather=ALONE, tp=ALONE)
    return layer.build(SPEC, 0, groups, members(), weights, latent=latent), w13, w2


def test_experts_see_the_latent_width_and_tokens_come_back_from_it():
    both = projections()
    built, w13, w2 = build(both)
    x, logits = torch.randn(3, HIDDEN), torch.randn(3, 4)
    out = built.forward(x, logits).out
    z = (x @ both.down.T).double()
    sums = torch.zeros(3, LATENT, dtype=torch.float64)
    weights, ids = logits.double().softmax(dim=1).topk(2)
    for t in range(3):
        for weight, e in zip(weights[t] / weights[t].sum(), ids[t].tolist(), strict=True):
            gate, up = (z[t] @ w13[e].double().T).chunk(2)
            sums[t] += weight * (torch.nn.functional.silu(gate) * up @ w2[e].double().T)
    wanted = sums @ both.up.double().T
    assert float((out - wanted).norm() / wanted.norm()) < 1e-5
    assert built.kernel.experts.layer_spec.hidden == LATENT
    assert built.kernel.experts.layer_spec.layer_features == frozenset()


def test_each_product_is_rounded_once_and_no_token_is_fine():
    both = LatentProjections(down=projections().down.bfloat16(), up=projections().up.bfloat16())
    x = torch.randn(5, HIDDEN).bfloat16()
    wanted = (x.double() @ both.down.double().T).bfloat16()
    assert float((both.enter(x) != wanted).float().mean()) < 0.02  # but for ties
    assert both.leave(both.enter(x[:0])).shape == (0, HIDDEN)


@pytest.mark.parametrize(
    ("spec", "given", "text"),
    [
        (SPEC, None, "latent is 32, but projections are None; pass them exactly if"),
        (
            LayerSpec(m=3, hidden=HIDDEN, intermediate=16, num_experts=4, top_k=2),
            projections(),
            "latent is 0, but projections are given; pass them exactly if",
        ),
        (
            SPEC,
            LatentProjections(down=projections().up, up=projections().up),
            r"latent projection down is \[48, 32\]; for hidden size 48 and latent width 32 it must "
            r"be \[32, 48\]",
        ),
    ],
)
def test_projections_that_do_not_fit_are_an_error(spec, given, text):
    with pytest.raises(MoEError, match=text):
        check_projections(spec, given)
