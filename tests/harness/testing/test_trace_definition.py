"""The definition of a recorded layer: its shapes, and reference code that is right."""

import torch

from harness.matrix.traces.trace_format import Definition
from harness.testing.trace_definition import RecordedLayer

LAYER = RecordedLayer(
    hidden=8, intermediate=4, experts=3, top_k=2, dtype="float32", weights="float32"
)


def test_a_name_says_the_shapes():
    assert LAYER.name == "moe_fp32_topk2_e3_h8_i4"
    definition = Definition.model_validate(LAYER.definition())
    assert definition.sizes["gemm1_out_size"] == 8
    assert list(definition.inputs) == ["hidden_states", "w1", "w2", "topk_weights", "topk_ids"]


def test_the_reference_code_computes_the_layer():
    """Only this test runs it: the harness never does."""
    scope = {}
    exec(compile(LAYER.definition()["reference"], "reference", "exec"), scope)
    x, w1, w2 = torch.randn(5, 8), torch.randn(3, 8, 8), torch.randn(3, 8, 4)
    weights, ids = torch.randn(5, 3).softmax(1).topk(2)
    out = scope["run"](x, w1, w2, weights, ids)
    expected = torch.zeros(5, 8)
    for t in range(5):
        for weight, e in zip(weights[t], ids[t], strict=True):
            gate, up = w1[e, :4] @ x[t], w1[e, 4:] @ x[t]
            expected[t] += weight * (w2[e] @ (gate * torch.sigmoid(gate) * up))
    assert torch.allclose(out, expected, atol=1e-5)
