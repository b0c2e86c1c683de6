"""A router's input and choice, from which right and wrong weights are made."""

from __future__ import annotations

import torch

from harness.diagnosis.router_formulas import Routed
from moe.reference.routing import RoutingTruth
from moe.spec import RoutingMethod

TOKENS, EXPERTS = 24, 8


def routed_by(seed=0, *, top_k=3, bias=False, **options):
    """Tokens with distinct logits, and the right choice among 8 experts."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(TOKENS, EXPERTS, generator=generator, dtype=torch.float64)
    own = torch.rand(EXPERTS, generator=generator) / 4 if bias else None
    given = {"router": "softmax", "top_k": top_k, "renormalize": True, "bias": bias, **options}
    truth = RoutingTruth(method=RoutingMethod(**given), bias=own)
    return Routed(truth=truth, logits=logits, ids=truth.choose(logits).long())


def right_weights(routed):
    return routed.truth.weights(routed.logits, routed.ids).double()
