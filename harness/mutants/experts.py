"""Compute outputs with wrong experts or wrong slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.fixtures.expert_ids import global_ids, local_ids
from harness.mutants import NotApplicable
from harness.mutants.contributions import added_distance, blame, by_slot, parts_of, residual
from harness.mutants.recompute import (
    redo,
    redo_parts,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.mutants.sample import Scene


def expert_dropped(scene: Scene) -> Tensor:
    slots = by_slot(scene)
    cost = added_distance(residual(scene)[:, None], -slots)
    worst = _least_by_expert(scene, cost, slots)
    blame(scene, f"expert {worst}")
    return scene.answer.out - (slots * (scene.expert_ids == worst)[:, :, None]).sum(dim=1)


def _least_by_expert(scene: Scene, cost: Tensor, slots: Tensor) -> int:
    """Return the expert with the smallest sum of cost [r, k], among those that add anything."""
    adds = (slots.abs().amax(dim=-1) > 0) & (scene.expert_ids >= 0)  # not of zero experts
    ids = scene.expert_ids[adds].long()
    if len(ids) == 0:
        raise NotApplicable("no expert adds anything to these rows")
    total = cost.new_full((int(ids.max()) + 1,), torch.inf)
    total[ids] = 0
    return int(total.index_add_(0, ids, cost[adds]).argmin())


def expert_from_neighbour(scene: Scene) -> Tensor:
    """Use the next expert's weights for the expert none of whose rows is correct."""
    _needs_experts(scene)
    sample = scene.few_rows()
    suspect = int(suspect_of(scene, sample))
    blame(scene, f"expert {suspect}")
    affected = sample.expert_ids == suspect
    ids = torch.where(affected, (sample.expert_ids + 1) % _held(scene), -1)
    mask = affected[None, :, :, None]
    return sample.total(parts=torch.where(mask, redo_parts(sample, ids=ids), parts_of(sample)))


def suspect_of(scene: Scene, sample: Scene) -> Tensor:
    """Return [], of the sample's experts the one whose best row has the largest error."""
    ids = scene.expert_ids.long()
    length = scene.answer.out.square().sum(dim=1).clamp(min=1e-38)
    relative_error = (residual(scene).square().sum(dim=1) / length)[:, None].expand(ids.shape)
    best = relative_error.new_full((_held(scene),), torch.inf)
    is_expert = ids >= 0
    best = best.scatter_reduce(0, ids[is_expert], relative_error[is_expert], "amin")
    candidates = sample.expert_ids.flip(
        1
    ).flatten()  # of equals the last slot's: its weight is smallest
    candidates = candidates[candidates >= 0]
    if len(candidates) == 0:
        raise NotApplicable("no expert is in these rows")
    return candidates[best[candidates.long()].argmax()]


def ids_off_by_one(scene: Scene) -> Tensor:
    _needs_experts(scene)
    return redo(scene, ids=_shifted(scene, 1))


def ids_one_too_low(scene: Scene) -> Tensor:
    _needs_experts(scene)
    return redo(scene, ids=_shifted(scene, -1))


def _shifted(scene: Scene, by: int) -> Tensor:
    """Return [r, k], ids that are this much too high; those of no expert stay -1."""
    ids = scene.expert_ids
    return torch.where(ids < 0, -1, (ids + by) % _held(scene))


def _needs_experts(scene: Scene) -> None:
    if _held(scene) == 1:
        raise NotApplicable("there is one expert only")


def _held(scene: Scene) -> int:
    """Return the number of experts that the ranks hold, fused shared ones included."""
    return scene.case.layer_spec.held_experts


def last_slot_dropped(scene: Scene) -> Tensor:
    _needs_slots(scene)
    weights = scene.topk_weights.clone()
    weights[:, scene.case.top_k - 1] = 0
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
    """Use the previous slot's expert in each slot after the first; the last expert is lost."""
    if scene.topk_ids.shape[1] < 3:
        raise NotApplicable("below top-k 3 every slot has the first slot's expert then")
    parts = parts_of(scene)
    return scene.total(parts=torch.cat([parts[:, :, :1], parts[:, :, :-1]], dim=2))


def ids_in_int8(scene: Scene) -> Tensor:
    """Drop local ids above 127: in int8 they are negative, hence skipped."""
    experts_by_rank = scene.reference.layer_spec.experts_by_rank
    parts = parts_of(scene).clone()
    for rank, experts in enumerate(experts_by_rank):
        local = local_ids(scene.expert_ids, experts, _held(scene))
        parts[rank] *= (local < 128)[:, :, None]
    if max(len(experts) for experts in experts_by_rank) <= 128:
        raise NotApplicable("no rank has more than 128 experts")
    return scene.total(parts=parts)


def _needs_slots(scene: Scene) -> None:
    if scene.topk_ids.shape[1] == 1:
        raise NotApplicable("top-k is 1")


def global_ids_as_local(scene: Scene) -> Tensor:
    """Treat global ids below a rank's number of experts as its local ids."""
    return _by_rank(scene, lambda ids, _: ids)


def offset_taken_twice(scene: Scene) -> Tensor:
    """Subtract the id of a rank's first expert twice from each global id."""
    experts_by_rank = _experts_by_rank(scene)
    return _by_rank(scene, lambda ids, ep_rank: ids - 2 * _first(experts_by_rank[ep_rank]))


def stale_expert_map(scene: Scene) -> Tensor:
    """Run each rank's experts on the next rank's slots of the same local id."""
    sample, experts_by_rank = scene.few_rows(), _experts_by_rank(scene)
    ids = torch.full_like(sample.expert_ids, -1)
    for ep_rank, next_experts in enumerate([*experts_by_rank[1:], experts_by_rank[0]]):
        local = local_ids(sample.expert_ids, next_experts, _held(scene))
        computed = _computed(scene, local, ep_rank)
        ids = torch.where(computed >= 0, computed, ids)
    return redo(sample, ids=ids)


def remainder_on_last_rank(scene: Scene) -> Tensor:
    """Map the remaining experts to the last rank, while the first ranks hold their weights."""
    ep_size = len(_experts_by_rank(scene))
    experts_per_rank, remainder = divmod(_held(scene), ep_size)
    if remainder == 0:
        raise NotApplicable("the ranks divide the experts evenly")
    return _by_rank(scene, lambda ids, ep_rank: ids - experts_per_rank * ep_rank)


def absent_as_first(scene: Scene) -> Tensor:
    return _by_rank(scene, lambda ids, ep_rank: _else(scene, ids, ep_rank, 0))


def absent_as_last(scene: Scene) -> Tensor:
    experts_by_rank = _experts_by_rank(scene)
    return _by_rank(
        scene, lambda ids, ep_rank: _else(scene, ids, ep_rank, len(experts_by_rank[ep_rank]) - 1)
    )


def _else(scene: Scene, ids: Tensor, ep_rank: int, fallback: int) -> Tensor:
    """Return local ids on an EP rank, with `fallback` for experts of other ranks."""
    local = local_ids(ids, _experts_by_rank(scene)[ep_rank], _held(scene))
    return torch.where(local >= 0, local, fallback)


def _by_rank(scene: Scene, to_local: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Compute the output if each EP rank runs the local ids that `to_local(ids, ep_rank)` returns.

    Ranks that share experts count as one: each computes its columns of the same slots.
    """
    sample = scene.few_rows()
    parts = torch.zeros_like(parts_of(sample))
    for ep_rank in range(len(_experts_by_rank(scene))):
        ids = _computed(scene, to_local(sample.expert_ids, ep_rank), ep_rank)
        parts = parts + redo_parts(sample, ids=ids)
    return sample.total(parts=parts)


def _computed(scene: Scene, local: Tensor, ep_rank: int) -> Tensor:
    """Return global ids for an EP rank's local ids; -1 for those that it does not have."""
    inside = (local >= 0) & (local < len(_experts_by_rank(scene)[ep_rank]))
    rank = scene.case.layout.group("ep", scene.rank)[ep_rank]
    return torch.where(inside, global_ids(local, scene.reference.layer_spec, rank), -1)


def _first(experts: tuple[int, ...]) -> int:
    """Return the id of a rank's first expert; 0 for a rank without experts."""
    return experts[0] if experts else 0


def _experts_by_rank(scene: Scene) -> tuple[tuple[int, ...], ...]:
    """Return the global ids of each EP rank's experts."""
    layer_spec = scene.reference.layer_spec
    ep_ranks = layer_spec.layout.group("ep", scene.rank)
    if len(ep_ranks) == 1:
        raise NotApplicable("every rank has all experts")
    if layer_spec.is_balanced:
        raise NotApplicable("tokens go by the ids of physical experts, which never change")
    return tuple(layer_spec.experts_of(rank) for rank in ep_ranks)
