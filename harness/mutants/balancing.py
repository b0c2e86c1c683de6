"""Compute outputs of a layer whose load balancing lost track of what is where."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from harness.mutants import NotApplicable
from harness.mutants.contributions import added_distance, by_slot, parts_of, residual
from harness.mutants.recompute import redo, redo_parts
from harness.mutants.steps import Matrices, Steps, matrices, right_biases
from moe.reference.replicas import physical_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.mutants.sample import Scene
    from moe.placement import Placement


def stale_replica_map(scene: Scene) -> Tensor:
    """Send tokens to where their experts were: other experts are there now."""
    return _nearest_of(scene, lambda was, now: _held(physical_ids(*_chosen(scene, was)), now))


def weights_not_moved(scene: Scene) -> Tensor:
    """Send tokens to where their experts should be: the experts before are still there."""
    return _nearest_of(scene, lambda was, now: _held(physical_ids(*_chosen(scene, now)), was))


def logical_ids_as_physical(scene: Scene) -> Tensor:
    """Send tokens by the ids of their experts, as if those were slots: others may be there."""
    placement = scene.placement
    if placement is None:
        raise NotApplicable("the layer does not balance its load")
    ids = _held(scene.expert_ids.long(), placement).to(scene.expert_ids.dtype)
    if torch.equal(ids, scene.expert_ids):
        raise NotApplicable("every expert of these rows is in the slot of its own number")
    return redo(dataclasses.replace(scene, few=len(scene.rows)), ids=ids)


def scales_left_behind(scene: Scene) -> Tensor:
    """Use, in each slot, the scales of the expert that was there before."""
    if scene.reference.weight_format.grid == "model":
        raise NotApplicable("nothing is quantized")

    def with_scales_of(other: int) -> Steps:
        def w13(s: Scene, e: Matrices) -> Tensor:
            return e.w13 * (matrices(s, other).scale13 / e.scale13)

        def w2(s: Scene, e: Matrices) -> Tensor:
            return e.w2 * (matrices(s, other).scale2 / e.scale2)

        return Steps(w13=w13, w2=w2)

    return _left_behind(scene, with_scales_of)


def biases_left_behind(scene: Scene) -> Tensor:
    """Add, in each slot, the biases of the expert that was there before."""
    if not scene.case.expert_bias:
        raise NotApplicable("the layer has no biases")
    return _left_behind(scene, lambda other: Steps(biases=lambda s, _: right_biases(s, other)))


def replicas_disagree(scene: Scene) -> Tensor:
    """Add replicated experts as often as explains each row best: never, once, or on several ranks.

    Ranks of a TP group that choose different replicas of an expert do so.
    """
    placement, layout = scene.placement, scene.case.layout
    if placement is None or layout.tp_size == 1 or layout.sequence_parallel:
        raise NotApplicable("no ranks hold the same tokens and send them to replicas")
    counts = [len(placement.replicas_of(e)) for e in range(placement.num_experts)]
    several = torch.tensor([*(count > 1 for count in counts), False], device=scene.x.device)
    is_several = several[torch.where(scene.expert_ids < 0, len(counts), scene.expert_ids).long()]
    if not bool(is_several.any()):
        raise NotApplicable("no expert of these rows has replicas")
    out, slots, residuals = scene.answer.out.clone(), by_slot(scene), residual(scene)
    times = torch.arange(-1, layout.tp_size, device=out.device)
    for slot in range(slots.shape[1]):
        changes = slots[:, slot] * times[:, None, None]
        best = added_distance(residuals, changes).argmin(dim=0)  # [r]
        change = slots[:, slot] * (times[best] * is_several[:, slot])[:, None]
        out, residuals = out + change, residuals - change
    return out


def _chosen(scene: Scene, placement: Placement) -> tuple[Tensor, Placement, Tensor]:
    return scene.expert_ids, placement, scene.rows


def _held(physical: Tensor, placement: Placement) -> Tensor:
    """Return the logical experts of physical ids [r, k], -1 for -1."""
    logical_ids = torch.tensor([*placement.physical_to_logical, -1], device=physical.device)
    return logical_ids[physical]


def _nearest_of(scene: Scene, ids_of: Callable[[Placement, Placement], Tensor]) -> Tensor:
    """Return the output with other experts, by the earlier placement that explains it best.

    ids_of: of an earlier placement and the present one, the experts [r, k] that compute instead.
    """
    all_rows = dataclasses.replace(scene, few=len(scene.rows))  # few rows may have no moved expert
    outputs = []
    for was, now in _steps(scene):
        ids = ids_of(was, now).to(scene.expert_ids.dtype)
        if not torch.equal(ids, scene.expert_ids):
            outputs.append(redo(all_rows, ids=ids))
    return _nearest(scene, outputs)


def _steps(scene: Scene) -> list[tuple[Placement, Placement]]:
    """Return each earlier placement with the present one, the latest first."""
    if scene.placement is None:
        raise NotApplicable("the layer does not balance its load")
    return [(was, scene.placement) for was in reversed(scene.earlier) if was != scene.placement]


def _nearest(scene: Scene, outputs: list[Tensor]) -> Tensor:
    if not outputs:
        raise NotApplicable("no expert of these rows has moved")
    residuals = residual(scene)[: len(outputs[0])]
    expected = scene.answer.out[: len(outputs[0])]
    costs = [float(added_distance(residuals, output - expected).sum()) for output in outputs]
    return outputs[costs.index(min(costs))]


def _left_behind(scene: Scene, steps_of: Callable[[int], Steps]) -> Tensor:
    """Return the output if something of the expert before has stayed in each slot that changed."""
    sample = scene.few_rows()
    outputs = []
    for was, now in _steps(scene):
        physical = physical_ids(*_chosen(sample, now))
        before = _held(physical, was)
        moved = (before != sample.expert_ids) & (sample.expert_ids >= 0)
        if not bool(moved.any()):
            continue
        parts = torch.where(moved[None, :, :, None], 0.0, parts_of(sample))
        for other in torch.unique(before[moved]).tolist():
            ids = torch.where(moved & (before == other), sample.expert_ids, -1)
            parts = parts + redo_parts(sample, steps_of(other), ids=ids)
        outputs.append(sample.total(parts=parts))
    return _nearest(scene, outputs)
