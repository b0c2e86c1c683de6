"""Outputs that are computed alone are those of the answers, to the bit."""

from __future__ import annotations

import pytest
import torch

from moe.layout import Layout
from moe.numerics import EITHER, Numerics
from moe.reference.layer import BaselineSiluAndMul
from moe.reference.output_values import OutputValues
from moe.spec import LayerSpec, Scheme

TOKENS, HIDDEN, INTER, EXPERTS = 7, 96, 256, 4
GENERATOR = torch.Generator().manual_seed(2)
X = torch.randn(TOKENS, HIDDEN, generator=GENERATOR).bfloat16()
IDS = torch.rand(TOKENS, EXPERTS, generator=GENERATOR).topk(2).indices.int()
IDS[3] = -1
WEIGHTS = torch.rand(TOKENS, 2, generator=GENERATOR)
EXPERT_WEIGHTS = [
    (
        torch.randn(2 * INTER, HIDDEN, generator=GENERATOR) / 6,
        torch.randn(HIDDEN, INTER, generator=GENERATOR) / 16,
    )
    for _ in range(EXPERTS)
]
BIASES = [(torch.randn(2 * INTER), torch.randn(HIDDEN)) for _ in range(EXPERTS)]
MODEL = dict.fromkeys(["gemm1", "activation", "expert", "weighted", "combine"], "model")
OPEN = {"gemm1": EITHER, "activated_gate": "model", "activation": EITHER}


@pytest.mark.parametrize("layout", [{}, {"tp_size": 2}, {"dp_size": 2, "use_ep": True}])
@pytest.mark.parametrize("weight_on", ["output", "intermediate", "input"])
@pytest.mark.parametrize("rounded", [{}, MODEL, OPEN])
@pytest.mark.parametrize(
    "scheme", [("fp8_block", "fp8_group"), ("fp8_tensor", "fp8_dynamic"), ("model", "model")]
)
def test_they_are_those_of_the_answer(scheme, rounded, weight_on, layout):
    spec = LayerSpec(
        m=TOKENS,
        hidden=HIDDEN,
        intermediate=INTER,
        num_experts=EXPERTS,
        top_k=2,
        scheme=Scheme(weights=scheme[0], activations=scheme[1]),
        layout=Layout(**layout),
    )
    numerics = Numerics.stated(**rounded, weight_on=weight_on, weight_dtype="model")
    reference = BaselineSiluAndMul(
        spec, numerics, EXPERT_WEIGHTS.__getitem__, biases=BIASES.__getitem__
    )
    answer = reference(X, IDS, WEIGHTS)
    values = reference.remade(OutputValues)
    assert torch.equal(values.outputs(X, IDS, WEIGHTS, answer), answer.out)
    some = torch.tensor([5, 1])  # by the scales of the whole call
    outputs = values.outputs(X[some], IDS[some], WEIGHTS[some], answer, shared=torch.ones(2, 1))
    assert torch.allclose(outputs, answer.out[some] + 1, rtol=1e-5, atol=1e-5)
