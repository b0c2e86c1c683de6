"""Compute outputs with shared experts left out, added twice, or with a wrong input or gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.mutants import NotApplicable
from harness.mutants.contributions import by_slot
from harness.mutants.recompute import (
    elsewhere,
    shared_mlp,
)

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene


def shared_missing(scene: Scene) -> Tensor:
    return scene.answer.out - shared_part(scene)


def shared_twice(scene: Scene) -> Tensor:
    return scene.answer.out + shared_part(scene)


def shared_part(scene: Scene) -> Tensor:
    """Return [r, K], what the shared experts add, fused or not.

    Raises NotApplicable if the layer has none.
    """
    if scene.answer.shared is not None:
        return scene.answer.shared
    if not scene.case.shared_fused:
        raise NotApplicable("the layer has no shared experts")
    return by_slot(scene)[:, scene.case.top_k :].sum(dim=1)


def shared_from_output(scene: Scene) -> Tensor:
    """Run the shared experts on hidden states overwritten by the routed experts' output."""
    routed = scene.answer.out - shared_part(scene)
    if scene.case.shared_fused:
        raise NotApplicable("the routed experts compute the shared ones, from their own input")
    return routed + shared_mlp(elsewhere(scene, x=routed.to(scene.x.dtype)))


def shared_gate_ignored(scene: Scene) -> Tensor:
    """Add the shared experts' output without its gate."""
    part, factor = shared_part(scene), _gate(scene)
    return scene.answer.out + part * (1 / factor - 1)


def shared_gate_twice(scene: Scene) -> Tensor:
    """Multiply the shared experts' output by its gate twice."""
    part, factor = shared_part(scene), _gate(scene)
    return scene.answer.out + part * (factor - 1)


def shared_gate_not_squashed(scene: Scene) -> Tensor:
    """Multiply the shared experts' output by the gate's product, not by its sigmoid."""
    part, factor = shared_part(scene), _gate(scene)
    return scene.answer.out + part * (torch.logit(factor) / factor - 1)


def _gate(scene: Scene) -> Tensor:
    """Return the gate's factors [r, 1]. Raises NotApplicable if there is no gate."""
    if not scene.case.shared_gate:
        raise NotApplicable("the shared experts have no gate")
    return scene.reference.shared_factor(scene.x)
