"""Scenes of right outputs for any case and rank, worked out by the reference in this process."""

from __future__ import annotations

import dataclasses
import re
from functools import cache

import pytest
import torch

from harness.fixtures import fused_slots, layer_weights, tensors
from harness.fixtures.layer_call import Call, chosen_rows
from harness.fixtures.layer_under_test import (
    IDEAL,
    _static_scales,
    more_truth,
    numerics_of,
)
from harness.fixtures.rank_context import Caches, RankContext
from harness.matrix.case import MoETestConfig
from harness.mutants import NotApplicable, named
from harness.mutants.sample import Scene, scene_of
from moe.layer import Output
from moe.reference.layer import BaselineSiluAndMul
from moe.spec import Scheme
from moe.types import TORCH_DTYPE, Routing

CPU = torch.device("cpu")
ALONE = RankContext(rank=0, world_size=1, device=CPU, transport="gloo")


def case(**fields) -> MoETestConfig:
    plain = {"m": 6, "n": 256, "k": 256, "num_experts": 4, "top_k": 2, "experts": "torch_loop"}
    return MoETestConfig(**{**plain, **fields})


@cache
def scene(one: MoETestConfig, rank: int = 0, number: int = 0) -> Scene:
    """The scene of call `number` on this rank; its output is right. Do not write to it."""
    made = layer_weights.of_case(one, dataclasses.replace(ALONE, caches=Caches()))
    plain = Scheme(weights="model", activations="model")
    spec = dataclasses.replace(one.layer_spec, scheme=plain, shared_scheme=plain)
    weights = {"shared": made.shared, **more_truth(one, made, CPU)}
    ideal = BaselineSiluAndMul(spec, IDEAL, made.expert, **weights)
    numerics = numerics_of(one, "cpu").alternatives[0]
    reference = BaselineSiluAndMul(one.layer_spec, numerics, made.expert, **weights)
    start = number * one.m
    layout, counts = one.layout, one.counts
    d = layout.dp_rank(rank)
    whole = tensors.tokens(one, d, counts[d], CPU, start)
    here = layout.tokens_of(rank, counts)
    part = slice(here.start, here.stop)
    tokens = whole.part(part)
    ids, weights = fused_slots.chosen(one, tokens.x, tokens.logits, reference)
    scales = _static_scales(one, ALONE, ideal)
    keep = chosen_rows(len(tokens.x), CPU)
    answer = reference(tokens.x, ids, weights, keep=keep, adapters=tokens.adapters, **scales)
    out = answer.out.to(TORCH_DTYPE[one.dtype])
    output = Output(out=out, routing=Routing(topk_ids=ids, topk_weights=weights))
    call = Call(
        number=number,
        counts=counts,
        tokens=tokens,
        output=output,
        answer=answer,
        stages={},
        broken=(),
        start=start,
    )
    return scene_of(one, rank, call, reference)


def seen(right: Scene, actual: torch.Tensor) -> Scene:
    """The same, had the layer given this."""
    return dataclasses.replace(right, actual=actual.to(right.actual.dtype), memo={})


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


UNEVEN = case(m=6, dp_size=4, use_ep=True, tokens="ragged")
MANY_EXPERTS = case(num_experts=160, n=64, k=128)


def assert_no_mistake(name, point, text):
    """In this case the mistake changes nothing, and it says why."""
    with pytest.raises(NotApplicable, match=re.escape(text)):
        named(name).compute(scene(point))
