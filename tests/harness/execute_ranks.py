"""Cases of `run_case`, in this process or in real ranks that import this."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import pytest
import torch

from harness.diagnosis import causes
from harness.execute import run_case
from harness.fixtures.rank_context import RankContext
from harness.matrix.case import MoETestConfig
from moe import layer, spec
from moe.collectives import Group
from moe.experts.torch_loop import TorchLoopExperts
from moe.placement import initial
from moe.spec import MemberSpec

if TYPE_CHECKING:
    from harness.record.result import RankResult


def case(**fields) -> MoETestConfig:
    plain = {"m": 3, "n": 128, "k": 128, "num_experts": 4, "top_k": 2, "experts": "torch_loop"}
    return MoETestConfig(**{**plain, **fields})


def context(world_size: int = 1) -> RankContext:
    return RankContext(
        rank=int(os.environ["RANK"]) if world_size > 1 else 0,
        world_size=world_size,
        device=torch.device("cpu"),
        transport="gloo",
    )


def run_all(ids: list[str]) -> list[RankResult]:
    """Run these cases one after another in this rank, as a gang does."""
    cases = [MoETestConfig.from_id(text) for text in ids]
    here = context(cases[0].world_size)
    return [run_case(case, here) for case in cases]


def run_planted(name: str, text: str) -> RankResult:
    """Run a case while a mistake is in the stack."""
    from tests.harness.diagnosis.planted_mistakes import MISTAKES

    (found,) = _planted(MISTAKES[name].plant, [text])
    return found


def _planted(plant, ids: list[str]) -> list[RankResult]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causes, "SECONDS", 0.0)  # that it fails is the question, not why
        plant(patch)
        return run_all(ids)


def run_shuffled(text: str, *, stale: bool = False) -> RankResult:
    """Run a case while experts are in another order, so that no rank's are a range of ids.

    stale: the layer has the next rank's map.
    """

    def shuffled(layout, num_experts, redundant):
        made = initial(layout, num_experts, redundant)
        order = tuple(sorted(range(num_experts), key=lambda e: (e * 5 + 2) % num_experts))
        return dataclasses.replace(made, physical_to_logical=order[::-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spec, "initial", shuffled)
        if stale:
            real = layer._expert_map
            patch.setattr(layer, "_expert_map", lambda p, rank, device: real(p, 1 - rank, device))
        (result,) = run_all([text])
    return result


def run_with_another_last_bit(text: str) -> RankResult:
    """Run a case while the second TP rank has one bit of what is summed otherwise."""
    real = Group.all_reduce

    def all_reduce(self, x):
        out = real(self, x).clone()
        if os.environ["RANK"] == "1":
            out.view(torch.int16)[4, 9] ^= 1
        return out

    def plant(patch):
        patch.setattr(Group, "all_reduce", all_reduce)

    (found,) = _planted(plant, [text])
    return found


class ConvertsInPlace(TorchLoopExperts):
    """Wants [up; gate] and turns the tensor that it is given; its output is right."""

    row = MemberSpec(name="converts_in_place", target="tests.harness.execute_ranks:ConvertsInPlace")

    def prepare_weights(self, weights):
        weights.w13.copy_(weights.w13.roll(weights.w13.shape[1] // 2, 1))
        own = weights.w13.roll(weights.w13.shape[1] // 2, 1)
        super().prepare_weights(weights.replace(w13=own))


class ScalesInPlace(TorchLoopExperts):
    """Makes the intermediate's static scale four times what it is, in the tensor it is given."""

    row = MemberSpec(name="scales_in_place", target="tests.harness.execute_ranks:ScalesInPlace")

    def prepare_weights(self, weights):
        weights.a2_scale.mul_(4)
        super().prepare_weights(weights)


class WritesOnWhatItIsGiven(TorchLoopExperts):
    """Uses all that it was given as scratch, once its output is made; the output is right."""

    row = MemberSpec(name="writes", target="tests.harness.execute_ranks:WritesOnWhatItIsGiven")

    def apply(self, x, routing):
        out = super().apply(x, routing)
        for given in (x.codes, routing.topk_ids, routing.topk_weights):
            given.zero_()
        return out
