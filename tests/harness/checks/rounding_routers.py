"""Routers whose rows state no roundings, some of which round differently from rank to rank."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch.distributed as dist

from moe.routers.base import RouterSpec
from moe.routers.softmax.member import SoftmaxTopK
from moe.spec import ANY, Needs


def silent(name: str) -> RouterSpec:
    return RouterSpec(
        name=name,
        target=f"{__name__}:{name}",
        truth="moe.routers.softmax.truth:SoftmaxTruth",
        needs=Needs(dtypes=ANY, formats=ANY),
        sums_to_one=True,
    )


class RoundsOnRank1:
    """The softmax, whose weights rank 1 alone rounds to bf16."""

    row: ClassVar[RouterSpec] = silent("RoundsOnRank1")

    def __call__(self, logits, top_k, *, renormalize):
        routing = SoftmaxTopK()(logits, top_k, renormalize=renormalize)
        if not self.rounds():
            return routing
        weights = routing.topk_weights.bfloat16().float()
        return dataclasses.replace(routing, topk_weights=weights)

    def rounds(self):
        return dist.is_initialized() and dist.get_rank() == 1


class RoundsOnEachRank(RoundsOnRank1):
    row: ClassVar[RouterSpec] = silent("RoundsOnEachRank")

    def rounds(self):
        return True
