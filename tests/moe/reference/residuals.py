"""How far members really are from the reference, in units of what their rows declare.

Importable by ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.fixtures.hidden_routing import hidden_routing
from harness.fixtures.layer_under_test import local_tokens, make_subject
from harness.matrix.case import MoETestConfig
from moe.reference.layer import BaselineSiluAndMul
from tests.harness.execute_ranks import context

if TYPE_CHECKING:
    from harness.fixtures.rank_context import RankContext

SEEDS = 8


def case(**fields) -> MoETestConfig:
    plain = {"m": 16, "n": 128, "k": 128, "num_experts": 4, "top_k": 2, "experts": "torch_loop"}
    return MoETestConfig(**{**plain, **fields})


def ratios(point: MoETestConfig, here: RankContext, declared=None) -> list[float]:
    """Squared distance over declared variance, of each of this rank's rows.

    declared: other numerics than the row's, to see that the difference shows.
    """
    with torch.inference_mode():
        subject = make_subject(point, here)
        mine = local_tokens(point, here, point.counts)
        got = subject.layer.forward(mine.x, mine.logits)
        truth = subject.reference
        if declared is not None:
            truth = BaselineSiluAndMul(point.layer_spec, declared, truth._expert, truth._shared)
        routing = got.routing or hidden_routing(point, mine.logits)
        answer = truth(mine.x, routing.topk_ids, routing.topk_weights, **subject.scales)
        off = (got.out.float() - answer.out).square().sum(dim=1)
        return (off / answer.variance).tolist()


def all_ratios(
    point: MoETestConfig, here: RankContext, declared=None, seeds: int = SEEDS
) -> list[float]:
    """The same over `seeds` cases with other weights and tokens."""
    points = (point.replace(seed=seed) for seed in range(seeds))
    return [value for one in points for value in ratios(one, here, declared)]


def in_rank(text: str) -> list[float]:
    point = MoETestConfig.from_id(text)
    return all_ratios(point, context(point.world_size))
