"""Compute outputs whose sums over ranks miss a rank, count one twice, or are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.mutants import NotApplicable
from harness.mutants.contributions import added_distance, blame, by_rank, residual
from harness.mutants.recompute import shared_mlp
from harness.mutants.shared import shared_part

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.mutants.sample import Scene


def rank_missing(scene: Scene) -> Tensor:
    return scene.answer.out - _one_rank(scene, -1.0)


def rank_twice(scene: Scene) -> Tensor:
    return scene.answer.out + _one_rank(scene, 1.0)


def _one_rank(scene: Scene, sign: float) -> Tensor:
    """Return [r, K], the contribution of the rank that, times `sign`, best explains the output."""
    if scene.case.world_size == 1:
        raise NotApplicable("there is one rank only")
    shares = by_rank(scene)
    rank = _nearest(scene, sign * shares)
    blame(scene, f"rank {rank}")
    return shares[rank]


def _nearest(scene: Scene, changes: Tensor) -> int:
    """Return which of the nonzero changes [W, r, K] best explains the actual output."""
    cost = added_distance(residual(scene), changes).sum(dim=1)
    idle = (changes == 0).flatten(1).all(dim=1)
    if idle.all():
        raise NotApplicable("no rank adds anything to these rows")
    return int(cost.masked_fill(idle, torch.inf).argmin())


def tp_rank_missing(scene: Scene) -> Tensor:
    """Let one TP rank pass zeros to the all-reduce, in each DP rank, shared experts included."""
    _needs_all_reduce(scene)
    layout, shared = scene.case.layout, scene.answer.shared
    if layout.size("gather") == 1 and shared is None:
        raise NotApplicable("where all ranks hold the same tokens that is a rank's share")
    by = by_rank(scene)
    shares = torch.stack([by[t :: layout.tp_size].sum(dim=0) for t in _tp(scene)])
    if shared is not None:
        shares = shares + torch.stack([shared_mlp(scene, t) for t in _tp(scene)])
    missing = _nearest(scene, -shares)
    blame(scene, f"TP rank {missing}")
    return scene.answer.out - shares[missing]


def _tp(scene: Scene) -> range:
    return range(scene.case.tp_size)


def all_reduce_missing(scene: Scene) -> Tensor:
    _needs_all_reduce(scene)
    layout = scene.case.layout
    routed = by_rank(scene)[list(layout.group("gather", scene.rank))].sum(dim=0)
    routed = routed + scene.passed()
    return routed if scene.answer.shared is None else routed + _local_shared(scene)


def all_reduce_twice(scene: Scene) -> Tensor:
    _needs_all_reduce(scene)
    passed = scene.passed()
    return (scene.answer.out - passed) * scene.case.tp_size + passed


def all_reduce_averaged(scene: Scene) -> Tensor:
    _needs_all_reduce(scene)
    passed = scene.passed()
    return (scene.answer.out - passed) / scene.case.tp_size + passed


def _needs_all_reduce(scene: Scene) -> None:
    if scene.case.tp_size == 1:
        raise NotApplicable("there is one TP rank only")
    if scene.case.sequence_parallel:
        raise NotApplicable("under sequence parallelism no output is all-reduced")


def reduce_scatter_missing(scene: Scene) -> Tensor:
    """Keep each rank's partial sums of its own tokens; sum over the TP ranks only."""
    layout, shares = scene.case.layout, by_rank(scene)
    if layout.sequence_parallel:
        routed = shares[scene.rank]
    elif layout.size("gather") == 1:
        raise NotApplicable("ranks that share their tokens have no others' to gather")
    else:
        routed = shares[list(layout.group("tp", scene.rank))].sum(dim=0)
    routed = routed + scene.passed()
    return routed if scene.answer.shared is None else routed + scene.answer.shared


def context_ranks_not_summed(scene: Scene) -> Tensor:
    """Sum each token over the ranks that have its own context rank's place, as without context."""
    if scene.case.pcp_size == 1:
        raise NotApplicable("there is one context rank only")
    return _summed_in_place(scene, scene.case.layout.pcp_rank)


def moe_tp_ranks_not_summed(scene: Scene) -> Tensor:
    """Sum each token over one EP group: of each expert only one rank's columns are in it."""
    _needs_split_experts(scene)
    layout = scene.case.layout
    return _summed_in_place(scene, lambda rank: layout.position("moe_tp", rank))


def split_experts_repeated(scene: Scene) -> Tensor:
    """Let each rank that holds columns of an expert add the whole expert."""
    _needs_split_experts(scene)
    routed = by_rank(scene).sum(dim=0)
    return scene.answer.out + (scene.case.moe_tp_size - 1) * routed


def parts_summed(scene: Scene) -> Tensor:
    """Add the experts' outputs of each part of the ranks that has all of them, not of one only."""
    if scene.case.expert_dp_size == 1:
        raise NotApplicable("the ranks hold every expert once")
    return scene.answer.out + (scene.case.expert_dp_size - 1) * by_rank(scene).sum(dim=0)


def _needs_split_experts(scene: Scene) -> None:
    if scene.case.moe_tp_size == 1:
        raise NotApplicable("no expert is both spread and split")


def _summed_in_place(scene: Scene, place: Callable[[int], int]) -> Tensor:
    """Return the output if each rank gathers only from ranks with its own `place`."""
    layout = scene.case.layout
    gathered = {
        other
        for rank in layout.same_tokens(scene.rank)
        for other in layout.group("gather", rank)
        if place(other) == place(rank)
    }
    if len(gathered) == layout.size("experts"):
        raise NotApplicable("the all-reduce over the TP ranks adds them up")
    routed = by_rank(scene)[sorted(gathered)].sum(dim=0) + scene.passed()
    return routed if scene.answer.shared is None else routed + scene.answer.shared


def shared_once_per_rank(scene: Scene) -> Tensor:
    _needs_all_reduce(scene)
    return scene.answer.out + (scene.case.tp_size - 1) * shared_part(scene)


def shared_unreduced(scene: Scene) -> Tensor:
    """Add only this TP rank's columns of the shared experts, also under sequence parallelism."""
    shared = shared_part(scene)
    if scene.case.tp_size == 1:
        raise NotApplicable("there is one TP rank only")
    if scene.case.shared_fused:
        raise NotApplicable("fused shared experts are summed with the routed ones")
    return scene.answer.out - shared + _local_shared(scene)


def _local_shared(scene: Scene) -> Tensor:
    return shared_mlp(scene, scene.case.layout.tp_rank(scene.rank))
