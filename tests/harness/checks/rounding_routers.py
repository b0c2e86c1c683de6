"""Routers whose rows state no roundings, or others; some round otherwise from rank to rank."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch.distributed as dist

from moe.router_numerics import RouterNumerics
from moe.routers.base import RouterSpec
from moe.routers.softmax.member import SoftmaxTopK
from moe.spec import ANY, Needs, RoutingMethod
from moe.types import Routing
from tests.moe.rounded_routers import RoundedRouter


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


class AsTorch:
    """Keeps each value in the dtype that torch gives it, from logits as they are."""

    numerics = RouterNumerics.as_torch()
    row: ClassVar[RouterSpec] = dataclasses.replace(
        silent("AsTorch"), takes=frozenset({"bias", "scale", "logits_dtype"})
    )

    def __call__(self, logits, top_k, *, renormalize, bias=None, scale=1.0):
        method = RoutingMethod(
            top_k=top_k, renormalize=renormalize, bias=bias is not None, scale=scale
        )
        router = RoundedRouter(method=method, numerics=self.numerics, bias=bias)
        ids, weights = router(logits)
        return Routing(topk_ids=ids.int(), topk_weights=self.returned(weights))

    def returned(self, weights):
        return weights


class SumsInFloat32(AsTorch):
    """Rounds otherwise than its row states."""

    numerics = RouterNumerics.as_torch(total="f32")
    row: ClassVar[RouterSpec] = dataclasses.replace(
        silent("SumsInFloat32"), rounding=RouterNumerics.as_torch()
    )


class RoundsUp(AsTorch):
    """Returns weights that no rounding gives."""

    row: ClassVar[RouterSpec] = silent("RoundsUp")

    def returned(self, weights):
        return weights * (1 + 2.0**-7)
