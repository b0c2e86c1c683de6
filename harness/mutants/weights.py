"""Compute outputs with one matrix taken from another expert or from another rank's shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.mutants import NotApplicable
from harness.mutants.recompute import redo
from harness.mutants.steps import (
    Matrices,
    Steps,
    matrices,
)

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene


def w13_of_expert_before(scene: Scene) -> Tensor:
    return redo(scene, Steps(w13=lambda s, e: matrices(s, neighbour(s, e.expert, -1)).w13))


def w13_of_next_expert(scene: Scene) -> Tensor:
    return redo(scene, Steps(w13=lambda s, e: matrices(s, neighbour(s, e.expert, 1)).w13))


def w2_of_expert_before(scene: Scene) -> Tensor:
    return redo(scene, Steps(w2=lambda s, e: matrices(s, neighbour(s, e.expert, -1)).w2))


def w2_of_next_expert(scene: Scene) -> Tensor:
    return redo(scene, Steps(w2=lambda s, e: matrices(s, neighbour(s, e.expert, 1)).w2))


def neighbour(scene: Scene, expert: int, step: int) -> int:
    """Return the expert `step` places further on the same rank, cyclically."""
    by_rank = scene.reference.layer_spec.experts_by_rank
    experts_by_rank = [tuple(dict.fromkeys(experts)) for experts in by_rank]  # replicas once
    largest = max(len(experts) for experts in experts_by_rank)
    if largest == 1:
        raise NotApplicable("no rank has more than one expert")
    if largest == 2 and step < 0:
        raise NotApplicable("of two experts each is next to the other, either way")
    experts = next(experts for experts in experts_by_rank if expert in experts)
    return experts[(experts.index(expert) + step) % len(experts)]


def w2_shard_of_next_rank(scene: Scene) -> Tensor:
    return _shard_of(scene, 1)


def w2_shard_of_rank_before(scene: Scene) -> Tensor:
    if scene.case.world_size == 2:
        raise NotApplicable("of two ranks each is next to the other, either way")
    return _shard_of(scene, -1)


def _shard_of(scene: Scene, step: int) -> Tensor:
    """Multiply each rank's intermediate with another rank's columns of w2."""
    if scene.case.layout.size("moe_tp") == 1:
        raise NotApplicable("every rank has whole experts")
    width, *other_widths = set(scene.case.layer_spec.shard_sizes)
    if other_widths:
        raise NotApplicable("the shards are of different sizes")

    def other(_: Scene, e: Matrices) -> Tensor:
        return e.w2.roll(-step * width, dims=1)

    return redo(scene, Steps(w2=other))
