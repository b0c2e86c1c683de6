"""One rank's call of a case as the reference computes it, for planting mistakes in its output."""

from __future__ import annotations

import dataclasses
from functools import cache

import torch

from harness.fixtures import tensors
from harness.fixtures.layer_call import Call, chosen_rows
from harness.matrix.case import MoETestConfig
from harness.mutants.sample import Scene, scene_of
from moe.layer import Output
from moe.reference import routing
from moe.reference.layer import BaselineSiluAndMul
from moe.spec import Numerics
from moe.types import Routing

torch.set_num_threads(1)  # tensors are small: more threads only wait for each other
CPU = torch.device("cpu")
CASE = MoETestConfig(m=40, n=256, k=384, num_experts=8, top_k=2, experts="torch_loop")


@cache
def call_of(case: MoETestConfig = CASE, rank: int = 0) -> tuple[Call, BaselineSiluAndMul]:
    """The first call with the right output, rounded to the model dtype. Do not write to it."""
    dp_rank = case.layout.dp_rank(rank)
    tokens = tensors.tokens(case, dp_rank, case.counts[dp_rank], CPU)
    ids = routing.choose(tokens.logits, case.top_k)
    weights = routing.weights(tokens.logits, ids, renormalize=True)
    experts = [tensors.expert_weights(case, e, CPU) for e in range(case.num_experts)]
    shared = tensors.expert_weights(case, "shared", CPU) if case.shared_experts else None
    reference = BaselineSiluAndMul(case.layer_spec, Numerics.stated(), lambda e: experts[e], shared)
    answer = reference(tokens.x, ids, weights, keep=chosen_rows(len(tokens.x), CPU))
    output = Output(out=answer.out.bfloat16(), routing=Routing(topk_ids=ids, topk_weights=weights))
    call = Call(
        number=0,
        counts=case.counts,
        start=0,
        tokens=tokens,
        output=output,
        answer=answer,
        stages={},
        broken=(),
    )
    return call, reference


def with_output(call: Call, out: torch.Tensor) -> Call:
    """The same call, had the layer given this: [T, K] any float dtype, rounded to bf16."""
    output = dataclasses.replace(call.output, out=out.to(torch.bfloat16))
    return dataclasses.replace(call, output=output)


def scene(call: Call, case: MoETestConfig = CASE, rank: int = 0) -> Scene:
    return scene_of(case, rank, call, call_of(case, rank)[1])
