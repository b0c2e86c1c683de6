"""Mistakes in the parameters of an activation: its limit, beta and alpha."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from harness.mutants import NotApplicable
from harness.mutants.recompute import redo
from harness.mutants.steps import Steps
from moe.activations import ACTIVATIONS
from moe.activations.silu.truth import silu

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene
    from moe.reference.activation import TrueActivation


def limit_missing(scene: Scene) -> Tensor:
    return _without_limit(scene, gate=True, up=True)


def gate_limit_missing(scene: Scene) -> Tensor:
    return _without_limit(scene, gate=True, up=False)


def up_limit_missing(scene: Scene) -> Tensor:
    return _without_limit(scene, gate=False, up=True)


def _without_limit(scene: Scene, *, gate: bool, up: bool) -> Tensor:
    """Compute the activation without the limit of the gate, or of up, or of both."""
    truth = _limited(scene)
    unlimited = dataclasses.replace(truth, limit=None)
    return _factors(scene, unlimited if gate else truth, unlimited if up else truth)


def beta_missing(scene: Scene) -> Tensor:
    truth = scene.reference.activation
    if not truth.beta:
        raise NotApplicable("nothing is added to up")
    return _factors(scene, truth, dataclasses.replace(truth, beta=0.0))


def alpha_missing(scene: Scene) -> Tensor:
    if ACTIVATIONS.row(scene.case.activation).alpha == 1.0:
        raise NotApplicable("the sigmoid has no factor")
    truth = scene.reference.activation
    return _factors(scene, dataclasses.replace(truth, function=silu), truth)


def _limited(scene: Scene) -> TrueActivation:
    truth = scene.reference.activation
    if truth.limit is None:
        raise NotApplicable("the layer's activation has no limit")
    return truth


def _factors(scene: Scene, of_gate: TrueActivation, of_up: TrueActivation) -> Tensor:
    """Compute the output with f(gate) of one activation and the factor of up of another."""

    def product(gate: Tensor, up: Tensor | None) -> Tensor:
        f = of_gate.of_gate(gate).value
        return f if up is None else f * of_up.of_up(up).value

    return redo(scene, Steps(activation=product))
