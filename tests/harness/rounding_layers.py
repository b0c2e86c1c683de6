"""Whole layers that route in bf16 and hide it. Their experts compute in float32, and say so."""

from __future__ import annotations

from typing import ClassVar

import torch

from moe.layer import Output
from moe.router_numerics import PLAIN, RouterNumerics
from moe.spec import Numerics
from moe.types import Routing
from tests.harness.outside_layers import Right


class RoutesInBf16(Right):
    """Keeps logits, scores, their sum and the weights in bf16, and states it."""

    numerics = Numerics.stated(accumulation=2.0**-22)
    rounding: RouterNumerics | None = RouterNumerics.as_torch()
    routers = frozenset({"softmax", "sigmoid"})

    def route(self, x):
        logits = x @ self.gate.T
        softmax = self.layer_spec.router == "softmax"
        scores = torch.softmax(logits, dim=-1) if softmax else torch.sigmoid(logits)
        weights, ids = scores.topk(self.layer_spec.top_k, dim=-1)
        if self.layer_spec.renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.float(), ids


class SaysNothing(RoutesInBf16):
    rounding = None


class SaysFloat32(RoutesInBf16):
    rounding = PLAIN


class SaysFloat32OnOtherDevices(SaysFloat32):
    rounding_on: ClassVar = {"cpu": RouterNumerics.as_torch()}


class Truncates(SaysNothing):
    """Moves the smaller weights of the tokens towards 0 by a step of bf16."""

    def route(self, x):
        weights, ids = super().route(x)
        return torch.where(weights < 0.5, weights * (1 - 2.0**-7), weights), ids


class ReturnsItsRouting(RoutesInBf16):
    def forward(self, x):
        weights, ids = self.route(x)
        routing = Routing(topk_ids=ids.int(), topk_weights=weights)
        return Output(out=super().forward(x), routing=routing)


class ReturnsAndSaysNothing(ReturnsItsRouting):
    rounding = None


class ReturnsAndSaysFloat32(ReturnsItsRouting):
    rounding = PLAIN
