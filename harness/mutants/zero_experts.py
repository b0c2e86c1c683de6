"""Compute outputs with zero-computation experts left out, weighted wrongly or added per rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.mutants import NotApplicable
from harness.mutants.recompute import redo

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene


def zero_experts_missing(scene: Scene) -> Tensor:
    return scene.answer.out - _passed(scene)


def first_zero_expert_missing(scene: Scene) -> Tensor:
    """Leave out the zero expert whose id comes after the routed experts', as `>` for `>=` does."""
    passed = _passed(scene)
    is_first = scene.topk_ids == scene.case.num_experts
    if not bool(is_first.any()):
        raise NotApplicable("the first zero expert was not chosen")
    return scene.answer.out - passed + scene.passed(scene.topk_weights.masked_fill(is_first, 0.0))


def zero_experts_unscaled(scene: Scene) -> Tensor:
    """Add tokens by the router's weights before its factor."""
    passed, scale = _passed(scene), scene.case.router_scale
    if scale == 1.0:
        raise NotApplicable("the router's factor is one")
    return scene.answer.out - passed + passed / scale


def zero_experts_unweighted(scene: Scene) -> Tensor:
    """Add each token once for each of its zero experts, without the router's weight."""
    passed = _passed(scene)
    return scene.answer.out - passed + scene.passed(torch.ones_like(scene.topk_weights))


def zero_experts_weighted_twice(scene: Scene) -> Tensor:
    passed = _passed(scene)
    return scene.answer.out - passed + scene.passed(scene.topk_weights.square())


def zero_experts_once_per_rank(scene: Scene) -> Tensor:
    """Add them before the sum over the TP ranks, which all hold the same tokens."""
    passed = _passed(scene)
    if scene.case.tp_size == 1 or scene.case.sequence_parallel:
        raise NotApplicable("no other rank holds the same tokens")
    return scene.answer.out + (scene.case.tp_size - 1) * passed


def zero_experts_as_first(scene: Scene) -> Tensor:
    """Compute the slots of zero experts with expert 0."""
    passed = _passed(scene)
    sample = scene.few_rows()
    ids = torch.where(sample.topk_ids >= scene.case.num_experts, 0, sample.topk_ids)
    return redo(scene, ids=ids) - passed[: len(ids)]


def _passed(scene: Scene) -> Tensor:
    """Return [r, K], what zero experts add. Raises NotApplicable if there are none."""
    if not scene.case.zero_experts:
        raise NotApplicable("the layer has no zero experts")
    passed = scene.passed()
    if not bool(passed.any()):
        raise NotApplicable("no zero expert was chosen")
    return passed
