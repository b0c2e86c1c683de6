"""Compute outputs with router weights ignored, applied twice, misplaced or wrongly normalised."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from harness.fixtures.routing_truth import routing_truth
from harness.matrix.exactness import has_plain_choice
from harness.mutants import NotApplicable
from harness.mutants.recompute import (
    elsewhere,
    redo_parts,
)
from harness.mutants.steps import (
    Steps,
    quantized_input,
)
from moe.routers import ROUTERS

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene


def weights_ignored(scene: Scene) -> Tensor:
    _needs_weights(scene)
    return _weighted_by(scene, torch.ones_like(_chosen_weights(scene)))


def weights_twice(scene: Scene) -> Tensor:
    _needs_weights(scene)
    return _weighted_by(scene, _chosen_weights(scene).square())


def weights_uniform(scene: Scene) -> Tensor:
    _needs_weights(scene)
    mean = scene.case.router_scale / scene.case.top_k
    return _weighted_by(scene, torch.full_like(_chosen_weights(scene), mean))


def weights_reversed(scene: Scene) -> Tensor:
    if scene.case.top_k == 1:
        raise NotApplicable("top-k is 1")
    return _weighted_by(scene, _chosen_weights(scene).flip(1))


def weights_sigmoid(scene: Scene) -> Tensor:
    return _weights_of_another(scene, "sigmoid")


def weights_softmax(scene: Scene) -> Tensor:
    return _weights_of_another(scene, "softmax")


def _weights_of_another(scene: Scene, router: str) -> Tensor:
    _needs_weights(scene)
    if scene.case.router == router:
        raise NotApplicable(f"{router} is the layer's scoring function")
    return _weighted_by(scene, _weights(scene, router=router))


def renormalisation_missing(scene: Scene) -> Tensor:
    if not scene.case.renormalize:
        raise NotApplicable("the layer does not renormalise")
    _needs_a_choice(scene)
    _needs_a_sum(scene)
    return _weighted_by(scene, _weights(scene, renormalize=False))


def renormalisation_extra(scene: Scene) -> Tensor:
    if scene.case.renormalize:
        raise NotApplicable("the layer does renormalise")
    _needs_a_choice(scene)
    _needs_a_sum(scene)
    return _weighted_by(scene, _weights(scene, renormalize=True))


def bias_in_weights(scene: Scene) -> Tensor:
    truth = routing_truth(scene.case, scene.logits.device)
    if truth.bias is None:
        raise NotApplicable("the router has no bias")
    return _weighted_by(scene, _of_scores(scene, truth.keys(scene.logits).values))


def renormalised_over_all(scene: Scene) -> Tensor:
    if not scene.case.renormalize or _always_renormalizes(scene):
        raise NotApplicable("the layer does not renormalise the router's scores")
    _needs_a_sum(scene)
    plain = _weights(scene, renormalize=False)
    all_ids = torch.arange(scene.case.num_experts, device=plain.device).expand(len(plain), -1)
    truth = routing_truth(scene.case, scene.logits.device)
    total = truth.router.weights(scene.logits, all_ids, renormalize=False).sum(1, keepdim=True)
    return _weighted_by(scene, plain / total)


def router_scale_missing(scene: Scene) -> Tensor:
    return _weighted_by(scene, _chosen_weights(scene) / _scale(scene))


def router_scale_twice(scene: Scene) -> Tensor:
    return _weighted_by(scene, _chosen_weights(scene) * _scale(scene))


def router_scale_on_shared(scene: Scene) -> Tensor:
    scale, shared = _scale(scene), scene.answer.shared
    if shared is None:
        raise NotApplicable("the layer has no shared experts")
    return scene.total(shared=shared * scale)


def weights_on_output(scene: Scene) -> Tensor:
    _needs_weights(scene)
    if not scene.case.weights_input:
        raise NotApplicable("the router's weights multiply the output")
    sample = scene.few_rows()
    plain = elsewhere(sample, topk_weights=torch.ones_like(sample.topk_weights))
    return plain.total(parts=redo_parts(plain), weights=sample.topk_weights)


def weights_on_both(scene: Scene) -> Tensor:
    _needs_weights(scene)
    if not scene.case.weights_input:
        raise NotApplicable("the router's weights multiply the output")
    return scene.total(weights=scene.topk_weights.square())


def weights_on_input(scene: Scene) -> Tensor:
    _needs_weights(scene)
    if scene.case.weights_input:
        raise NotApplicable("the router's weights do multiply the input")
    sample = scene.few_rows()

    def weighted(scene: Scene, rows: Tensor, slots: Tensor) -> Tensor:
        weights = scene.topk_weights[rows, slots, None]
        return quantized_input(scene)[rows] * weights.to(scene.reference.dtype)

    parts = redo_parts(sample, Steps(inputs=weighted))
    return sample.total(parts=parts, weights=torch.ones_like(sample.topk_weights))


def _weighted_by(scene: Scene, weights: Tensor) -> Tensor:
    """Return the output with other router weights [r, k], on the input if they belong there.

    Fused shared experts keep theirs.
    """
    if not scene.case.weights_input:
        fused = scene.topk_weights[:, scene.case.top_k :]
        return scene.total(weights=torch.cat([weights.to(fused.dtype), fused], dim=1))
    changed = elsewhere(scene, topk_weights=weights)
    return changed.total(parts=redo_parts(changed))


def _of_scores(scene: Scene, scores: Tensor) -> Tensor:
    """Return [r, k], the weights made from these scores [r, E] of the chosen experts; -1: 0."""
    ids = _chosen(scene).long()
    weights = scores.gather(1, ids.clamp(min=0)).where(ids >= 0, 0.0)
    if scene.case.renormalize:
        weights = weights / weights.sum(dim=1, keepdim=True)
    return (weights * scene.case.router_scale).float()


def _scale(scene: Scene) -> float:
    if scene.case.router_scale == 1.0:
        raise NotApplicable("the router's factor is one")
    return scene.case.router_scale


def _weights(scene: Scene, **changes: Any) -> Tensor:
    """Return [r, k], the weights of a routing method that differs in these fields."""
    if not ROUTERS.row(scene.case.router).is_judged:
        raise NotApplicable("the router has no reference")
    truth = routing_truth(scene.case, scene.logits.device)
    changed = dataclasses.replace(truth, method=dataclasses.replace(truth.method, **changes))
    return changed.weights(scene.logits, _chosen(scene))


def _chosen(scene: Scene) -> Tensor:
    """Return the router's ids [r, k], without those of fused shared experts."""
    return scene.topk_ids[:, : scene.case.top_k]


def _chosen_weights(scene: Scene) -> Tensor:
    """Return the router's weights [r, k], without those of fused shared experts."""
    return scene.topk_weights[:, : scene.case.top_k]


def _needs_weights(scene: Scene) -> None:
    case = scene.case
    if case.exact and has_plain_choice(case) and _is_one_if_exact(scene):
        raise NotApplicable("an exact case's weights are one: equal shares, times the factor")
    if case.router_scale != 1.0:
        return
    if case.top_k == 1 and (case.renormalize or _always_renormalizes(scene)):
        raise NotApplicable("at top-k 1 a renormalised weight is one")
    if case.num_experts == 1 and _sums_to_one(scene):
        raise NotApplicable("the only expert's weight is one")


def _is_one_if_exact(scene: Scene) -> bool:
    """Tell whether each weight of an exact case is one: it has equal logits where chosen."""
    case, row = scene.case, ROUTERS.row(scene.case.router)
    if case.renormalize or row.sums_to_one:
        return case.router_scale == case.top_k
    return row.saturated_at is not None and case.router_scale == 1.0


def _needs_a_choice(scene: Scene) -> None:
    if _always_renormalizes(scene):
        raise NotApplicable("the router's weights sum to one with and without renormalisation")


def _always_renormalizes(scene: Scene) -> bool:
    return ROUTERS.row(scene.case.router).always_renormalizes


def _needs_a_sum(scene: Scene) -> None:
    if scene.case.top_k == scene.case.num_experts and _sums_to_one(scene):
        raise NotApplicable("all experts are chosen: their weights sum to one anyway")


def _sums_to_one(scene: Scene) -> bool:
    return ROUTERS.row(scene.case.router).sums_to_one
