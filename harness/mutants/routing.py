"""Compute outputs with router weights ignored, applied twice, misplaced or wrongly normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.mutants import NotApplicable
from harness.mutants.recompute import Steps, quantized_input, redo_parts
from moe.reference import routing
from moe.routers import ROUTERS

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene


def weights_ignored(scene: Scene) -> Tensor:
    _needs_weights(scene)
    return _weighted(scene, torch.ones_like(_weights(scene)))


def weights_twice(scene: Scene) -> Tensor:
    _needs_weights(scene)
    return _weighted(scene, _weights(scene).square())


def weights_uniform(scene: Scene) -> Tensor:
    _needs_weights(scene)
    return _weighted(scene, torch.full_like(_weights(scene), 1 / scene.case.top_k))


def weights_reversed(scene: Scene) -> Tensor:
    if scene.case.top_k == 1:
        raise NotApplicable("top-k is 1")
    return _weighted(scene, _weights(scene).flip(1))


def _weights(scene: Scene) -> Tensor:
    """Return the router's weights [r, k], without those of fused shared experts."""
    return scene.topk_weights[:, : scene.case.top_k]


def _weighted(scene: Scene, weights: Tensor) -> Tensor:
    """Return the output with other router weights [r, k]."""
    fused = scene.topk_weights[:, scene.case.top_k :]
    return scene.total(weights=torch.cat([weights, fused.to(weights.dtype)], dim=1))


def _chosen(scene: Scene) -> Tensor:
    """Return the router's ids [r, k]."""
    return scene.topk_ids[:, : scene.case.top_k]


def weights_sigmoid(scene: Scene) -> Tensor:
    return _weights_of_another(scene, "sigmoid")


def weights_softmax(scene: Scene) -> Tensor:
    return _weights_of_another(scene, "softmax")


def _weights_of_another(scene: Scene, router: str) -> Tensor:
    _needs_weights(scene)
    if scene.case.router == router:
        raise NotApplicable(f"{router} is the layer's scoring function")
    renormalize = scene.case.renormalize
    weights = routing.weights(scene.logits, _chosen(scene), renormalize=renormalize, router=router)
    return _weighted(scene, weights)


def renormalisation_missing(scene: Scene) -> Tensor:
    if not scene.case.renormalize:
        raise NotApplicable("the layer does not renormalise")
    _needs_a_choice(scene)
    _needs_a_sum(scene)
    router = scene.case.router
    weights = routing.weights(scene.logits, _chosen(scene), renormalize=False, router=router)
    return _weighted(scene, weights)


def renormalisation_extra(scene: Scene) -> Tensor:
    if scene.case.renormalize:
        raise NotApplicable("the layer does renormalise")
    _needs_a_choice(scene)
    _needs_a_sum(scene)
    weights = _weights(scene)
    return _weighted(scene, weights / weights.sum(dim=1, keepdim=True))


def weights_on_input(scene: Scene) -> Tensor:
    _needs_weights(scene)
    sample = scene.few_rows()

    def weighted(scene: Scene, rows: Tensor, slots: Tensor) -> Tensor:
        weights = scene.topk_weights[rows, slots, None]
        return quantized_input(scene)[rows] * weights.to(scene.reference.dtype)

    parts = redo_parts(sample, Steps(inputs=weighted))
    return sample.total(parts=parts, weights=torch.ones_like(sample.topk_weights))


def _needs_weights(scene: Scene) -> None:
    if scene.case.top_k == 1 and (scene.case.renormalize or _always_renormalizes(scene)):
        raise NotApplicable("at top-k 1 a renormalised weight is one")
    if scene.case.top_k == 1 and scene.case.exact and _sums_to_one(scene):
        raise NotApplicable("at top-k 1 an exact case's weight is one")
    if scene.case.num_experts == 1 and _sums_to_one(scene):
        raise NotApplicable("the only expert's weight is one")


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
