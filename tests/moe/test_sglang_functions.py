"""SGLang's functions run as they stand in its files: one token's experts beside a line of torch."""

from types import SimpleNamespace

import torch
from torch.nn.functional import silu

from moe.released import SGLANG_EXPERTS
from tests.moe.released_subjects import needs


@needs(SGLANG_EXPERTS)
def test_one_token_of_two_experts():
    from moe.sglang_functions import fused_moe_forward, fused_topk, moe_forward

    x, w13, w2 = torch.randn(1, 8), torch.randn(3, 12, 8), torch.randn(3, 8, 6)
    weights, ids = fused_topk(x, torch.tensor([[0.0, 2.0, 1.0]]), 2, True)
    assert ids.tolist() == [[1, 2]]
    outputs = [w2[e] @ (silu(w13[e, :6] @ x[0]) * (w13[e, 6:] @ x[0])) for e in (1, 2)]
    wanted = weights[0, 0] * outputs[0] + weights[0, 1] * outputs[1]
    config = SimpleNamespace(
        activation="silu", apply_router_weight_on_input=False, gemm1_alpha=None
    )
    config.gemm1_clamp_limit = None
    layer = SimpleNamespace(num_experts=3, w13_weight=w13, w2_weight=w2, moe_runner_config=config)
    chosen = weights, ids, None
    given = SimpleNamespace(hidden_states=x, topk_output=chosen)
    torch.testing.assert_close(moe_forward(layer, x, chosen, config)[0], wanted)
    torch.testing.assert_close(fused_moe_forward(layer, given)["hidden_states"][0], wanted)
