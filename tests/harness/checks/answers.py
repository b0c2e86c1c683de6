"""A case's answer by the reference, and the right output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.fixtures import tensors
from harness.matrix.case import MoETestConfig
from moe.reference import routing
from moe.reference.layer import BaselineSiluAndMul
from moe.spec import Numerics

if TYPE_CHECKING:
    from moe.reference.result import Answer


def answer_of(case: MoETestConfig, numerics: Numerics) -> Answer:
    cpu = torch.device("cpu")
    tokens = tensors.tokens(case, 0, case.m, cpu)
    ids = routing.choose(tokens.logits, case.top_k)
    weights = routing.weights(tokens.logits, ids, renormalize=True)
    experts = [tensors.expert_weights(case, e, cpu) for e in range(case.num_experts)]
    reference = BaselineSiluAndMul(case.layer_spec, numerics, lambda e: experts[e])
    return reference(tokens.x, ids, weights)


CASE = MoETestConfig(m=32, n=128, k=256, num_experts=8, top_k=2, experts="torch_loop")
ANSWER = answer_of(CASE, Numerics.stated())
RIGHT = ANSWER.out.bfloat16()
