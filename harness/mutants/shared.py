"""Compute outputs with shared experts left out, added twice, or computed or gated wrongly."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from harness.mutants import NotApplicable
from harness.mutants.contributions import by_slot
from harness.mutants.recompute import elsewhere, shared_mlp
from moe.reference.activation import activation_of
from moe.spec import LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene
    from moe.reference.shared_experts import SharedTruth


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


def shared_silu(scene: Scene) -> Tensor:
    """Compute the shared experts with SiLU in place of the layer's activation."""
    shared = _separate(scene)
    plain = "silu" if shared.activation.gated else "silu_no_mul"
    if scene.case.activation == plain:
        raise NotApplicable("the layer's activation is SiLU")
    return _recomputed(scene, activation=activation_of(plain))


def shared_halves_swapped(scene: Scene) -> Tensor:
    """Exchange gate and up of the shared experts."""
    shared = _separate(scene)
    if not shared.activation.gated:
        raise NotApplicable("the activation is not gated")
    return _recomputed(scene, w13=torch.cat(shared.w13.chunk(2)[::-1]))


def shared_not_quantized(scene: Scene) -> Tensor:
    """Compute the shared experts in the layer's dtype."""
    _separate(scene)
    if scene.case.shared_quant == "none":
        raise NotApplicable("the shared experts are not quantized")
    plain = dataclasses.replace(scene.case.layer_spec, shared_scheme=LayerSpec.shared_scheme)
    return _recomputed(scene, layer_spec=plain)


def _separate(scene: Scene) -> SharedTruth:
    """Return the reference's shared experts. Raises NotApplicable if there are none, or fused."""
    if scene.reference.shared is None:
        raise NotApplicable("the layer has no shared experts of their own")
    return scene.reference.shared


def _recomputed(scene: Scene, **changes: Any) -> Tensor:
    """Return the output if the reference's shared experts had other fields."""
    changed = dataclasses.replace(_separate(scene), **changes)
    added = changed(scene.x.to(scene.reference.dtype)).out
    return scene.answer.out - shared_part(scene) + added


def _gate(scene: Scene) -> Tensor:
    """Return the gate's factors [r, 1]. Raises NotApplicable if there is no gate."""
    if not scene.case.shared_gate:
        raise NotApplicable("the shared experts have no gate")
    return scene.reference.shared_factor(scene.x)
