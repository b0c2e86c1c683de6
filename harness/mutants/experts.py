"""The wrong expert, the wrong slot, the wrong number of shared experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.fixtures.expert_ids import global_ids, local_ids
from harness.mutants import FEW, NotApplicable
from harness.mutants.contributions import blame, by_slot, farther, parts_of, residual
from harness.mutants.recompute import elsewhere, redo, redo_parts, shared_mlp

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.mutants.sample import Scene


def expert_dropped(scene: Scene) -> Tensor:
    slots = by_slot(scene)
    cost = farther(residual(scene)[:, None], -slots)
    worst = _least_by_expert(scene, cost, slots)
    blame(scene, f"expert {worst}")
    return scene.answer.out - (slots * (scene.topk_ids == worst)[:, :, None]).sum(dim=1)


def _least_by_expert(scene: Scene, cost: Tensor, slots: Tensor) -> int:
    """The expert with the least sum of cost [r, k], among those that add anything at all."""
    adds = slots.abs().amax(dim=-1) > 0
    ids = scene.topk_ids[adds].long()
    if len(ids) == 0:
        raise NotApplicable("no expert adds anything to these rows")
    total = cost.new_full((int(ids.max()) + 1,), torch.inf)
    total[ids] = 0
    return int(total.index_add_(0, ids, cost[adds]).argmin())


def expert_from_neighbour(scene: Scene) -> Tensor:
    """The expert none of whose rows is right takes the next one's weights."""
    _needs_experts(scene)
    few = scene.first(FEW)
    suspect = int(_suspect(scene, few))
    blame(scene, f"expert {suspect}")
    which = few.topk_ids == suspect
    ids = torch.where(which, (few.topk_ids + 1) % scene.case.num_experts, -1)
    there = which[None, :, :, None]
    return few.total(parts=torch.where(there, redo_parts(few, ids=ids), parts_of(few)))


def _suspect(scene: Scene, few: Scene) -> Tensor:
    """[] of the experts of the few rows the one whose best row is the farthest off."""
    ids = scene.topk_ids.long()
    length = scene.answer.out.square().sum(dim=1).clamp(min=1e-38)
    off = (residual(scene).square().sum(dim=1) / length)[:, None].expand(ids.shape)
    best = off.new_full((scene.case.num_experts,), torch.inf)
    best = best.scatter_reduce(0, ids.flatten(), off.flatten(), "amin")
    named = few.topk_ids.flip(1).flatten()  # of equals the last slot's: the lightest
    return named[best[named.long()].argmax()]


def ids_off_by_one(scene: Scene) -> Tensor:
    _needs_experts(scene)
    return redo(scene, ids=(scene.topk_ids + 1) % scene.case.num_experts)


def ids_one_too_low(scene: Scene) -> Tensor:
    _needs_experts(scene)
    return redo(scene, ids=(scene.topk_ids - 1) % scene.case.num_experts)


def _needs_experts(scene: Scene) -> None:
    if scene.case.num_experts == 1:
        raise NotApplicable("there is one expert only")


def shared_missing(scene: Scene) -> Tensor:
    return scene.answer.out - _shared(scene)


def shared_twice(scene: Scene) -> Tensor:
    return scene.answer.out + _shared(scene)


def _shared(scene: Scene) -> Tensor:
    if scene.answer.shared is None:
        raise NotApplicable("the layer has no shared experts")
    return scene.answer.shared


def last_slot_dropped(scene: Scene) -> Tensor:
    _needs_slots(scene)
    weights = scene.topk_weights.clone()
    weights[:, -1] = 0
    return scene.total(weights=weights)


def slots_overwritten(scene: Scene) -> Tensor:
    _needs_slots(scene)
    parts = parts_of(scene)
    return scene.total(parts=parts[:, :, :1].expand(parts.shape))


def only_best_expert(scene: Scene) -> Tensor:
    _needs_slots(scene)
    weights = torch.zeros_like(scene.topk_weights)
    weights[:, 0] = scene.topk_weights[:, 0]
    if scene.topk_weights.shape[1] == 2:
        raise NotApplicable("at top-k 2 that is a dropped last slot")
    return scene.total(weights=weights)


def best_expert_twice(scene: Scene) -> Tensor:
    """Each slot after the first has the expert of the slot before: the last one's is lost."""
    if scene.topk_ids.shape[1] < 3:
        raise NotApplicable("below top-k 3 every slot has the first slot's expert then")
    parts = parts_of(scene)
    return scene.total(parts=torch.cat([parts[:, :, :1], parts[:, :, :-1]], dim=2))


def ids_in_int8(scene: Scene) -> Tensor:
    """Local ids above 127 are negative then, and negative ones take part in nothing."""
    held = scene.reference.problem.experts_by_rank
    parts = parts_of(scene).clone()
    for rank, experts in enumerate(held):
        local = local_ids(scene.topk_ids, experts, scene.case.num_experts)
        parts[rank] *= (local < 128)[:, :, None]
    if max(len(experts) for experts in held) <= 128:
        raise NotApplicable("no rank has more than 128 experts")
    return scene.total(parts=parts)


def shared_from_output(scene: Scene) -> Tensor:
    """The routed experts' output was written over the hidden states too early."""
    right = scene.answer.out - _shared(scene)
    seen = right.to(scene.x.dtype)
    return right + shared_mlp(elsewhere(scene, x=seen))


def _needs_slots(scene: Scene) -> None:
    if scene.topk_ids.shape[1] == 1:
        raise NotApplicable("top-k is 1")


def global_ids_as_local(scene: Scene) -> Tensor:
    """Every rank computes the ids below its number of experts, with its own experts."""
    return _by_rank(scene, lambda ids, _: ids)


def offset_taken_twice(scene: Scene) -> Tensor:
    """Each rank subtracts its first expert's id from ids, and once more from what is left."""
    held = _experts_by_rank(scene)
    return _by_rank(scene, lambda ids, rank: ids - 2 * _first(held[rank]))


def stale_expert_map(scene: Scene) -> Tensor:
    """Each rank computes the next rank's slots with its own experts of the same local number."""
    few, held = scene.first(FEW), _experts_by_rank(scene)
    ids = torch.full_like(few.topk_ids, -1)
    for rank, other in enumerate([*held[1:], held[0]]):
        local = local_ids(few.topk_ids, other, scene.case.num_experts)
        computed = _computed(scene, local, rank)
        ids = torch.where(computed >= 0, computed, ids)
    return redo(few, ids=ids)


def remainder_on_last_rank(scene: Scene) -> Tensor:
    """Experts that ranks do not divide: the first ranks have them, by the map the last one has."""
    held = _experts_by_rank(scene)
    each, rest = divmod(scene.case.num_experts, len(held))
    if rest == 0:
        raise NotApplicable("the ranks divide the experts evenly")
    return _by_rank(scene, lambda ids, rank: ids - each * rank)


def absent_as_first(scene: Scene) -> Tensor:
    return _by_rank(scene, lambda ids, rank: _else(scene, ids, rank, 0))


def absent_as_last(scene: Scene) -> Tensor:
    held = _experts_by_rank(scene)
    return _by_rank(scene, lambda ids, rank: _else(scene, ids, rank, len(held[rank]) - 1))


def _else(scene: Scene, ids: Tensor, rank: int, other: int) -> Tensor:
    """Local ids on the rank, `other` in place of what is not there."""
    local = local_ids(ids, _experts_by_rank(scene)[rank], scene.case.num_experts)
    return torch.where(local >= 0, local, other)


def _by_rank(scene: Scene, localised: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Every rank computes what `localised(ids, rank)` says, in local ids, with its own experts."""
    few = scene.first(FEW)
    parts = torch.zeros_like(parts_of(few))
    for rank in range(scene.case.world_size):
        ids = _computed(scene, localised(few.topk_ids, rank), rank)
        parts = parts + redo_parts(few, ids=ids)
    return few.total(parts=parts)


def _computed(scene: Scene, local: Tensor, rank: int) -> Tensor:
    """Local ids of the rank -> the global ids of its experts; -1 is nothing."""
    inside = (local >= 0) & (local < len(_experts_by_rank(scene)[rank]))
    return torch.where(inside, global_ids(local, scene.reference.problem, rank), -1)


def _first(experts: tuple[int, ...]) -> int:
    """The id that a rank's experts begin with; 0 for a rank without any."""
    return experts[0] if experts else 0


def _experts_by_rank(scene: Scene) -> tuple[tuple[int, ...], ...]:
    """The global ids of each rank's experts."""
    problem = scene.reference.problem
    if not problem.layout.use_ep or problem.layout.world_size == 1:
        raise NotApplicable("every rank has all experts")
    return problem.experts_by_rank
