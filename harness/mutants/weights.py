"""One of an expert's two matrices is another expert's, or another rank's shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.mutants import NotApplicable
from harness.mutants.recompute import Matrices, Steps, matrices, redo

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene


def w13_of_expert_before(scene: Scene) -> Tensor:
    return redo(scene, Steps(w13=lambda s, e: matrices(s, beside(s, e.expert, -1)).w13))


def w13_of_next_expert(scene: Scene) -> Tensor:
    return redo(scene, Steps(w13=lambda s, e: matrices(s, beside(s, e.expert, 1)).w13))


def w2_of_expert_before(scene: Scene) -> Tensor:
    return redo(scene, Steps(w2=lambda s, e: matrices(s, beside(s, e.expert, -1)).w2))


def w2_of_next_expert(scene: Scene) -> Tensor:
    return redo(scene, Steps(w2=lambda s, e: matrices(s, beside(s, e.expert, 1)).w2))


def beside(scene: Scene, expert: int, step: int) -> int:
    """The expert so many places further among those of the same rank, the ends joined."""
    held = scene.reference.problem.experts_by_rank
    most = max(len(experts) for experts in held)
    if most == 1:
        raise NotApplicable("no rank has more than one expert")
    if most == 2 and step < 0:
        raise NotApplicable("of two experts each is next to the other, either way")
    experts = next(experts for experts in held if expert in experts)
    return experts[(experts.index(expert) + step) % len(experts)]


def w2_shard_of_next_rank(scene: Scene) -> Tensor:
    return _shard_of(scene, 1)


def w2_shard_of_rank_before(scene: Scene) -> Tensor:
    if scene.case.world_size == 2:
        raise NotApplicable("of two ranks each is next to the other, either way")
    return _shard_of(scene, -1)


def _shard_of(scene: Scene, step: int) -> Tensor:
    """Each rank multiplies its own intermediate with the columns of w2 of another rank."""
    if scene.case.use_ep or scene.case.world_size == 1:
        raise NotApplicable("every rank has whole experts")
    width, *others = set(scene.case.problem.shard_sizes)
    if others:
        raise NotApplicable("the shards are of different sizes")

    def other(_: Scene, e: Matrices) -> Tensor:
        return e.w2.roll(-step * width, dims=1)

    return redo(scene, Steps(w2=other))
