"""Compute outputs of a latent layer with a projection that is left out, cut short or another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from harness.mutants import NotApplicable
from harness.mutants.recompute import (
    elsewhere,
    redo,
    shared_mlp,
)
from harness.mutants.shared import shared_part
from harness.mutants.steps import Steps
from moe.reference.latent import LatentTruth
from moe.spec import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene


def latent_not_entered(scene: Scene) -> Tensor:
    """Give the experts the first L hidden columns, without the projection."""
    truth = _truth(scene)
    latent, hidden = truth.down.shape
    return _with(scene, down=torch.eye(latent, hidden, device=truth.down.device))


def latent_not_left(scene: Scene) -> Tensor:
    """Return the sums of L columns as the first of K, the others zeros; or the first K of them."""
    hidden, latent = _truth(scene).up.shape
    columns = hidden - latent
    return redo(scene, Steps(leave=lambda _, y: pad(y, (0, columns))))


def latent_entered_twice(scene: Scene) -> Tensor:
    truth = _truth(scene)
    _needs_square(truth)
    return _with(scene, down=truth.down.float() @ truth.down.float())


def latent_left_twice(scene: Scene) -> Tensor:
    truth = _truth(scene)
    _needs_square(truth)
    return _with(scene, up=truth.up.float() @ truth.up.float())


def latent_tied(scene: Scene) -> Tensor:
    """Project back by the transpose of the way in."""
    return _with(scene, up=_truth(scene).down.T)


def latent_swapped(scene: Scene) -> Tensor:
    """Take the way back, transposed, for the way in, and the reverse."""
    truth = _truth(scene)
    return _with(scene, down=truth.up.T, up=truth.down.T)


def latent_last_block_missing(scene: Scene) -> Tensor:
    """Leave the last block of hidden columns out of the projection."""
    down = _truth(scene).down.clone()
    if down.shape[1] <= BLOCK:
        raise NotApplicable(f"the hidden size is one block of {BLOCK}")
    down[:, (down.shape[1] - 1) // BLOCK * BLOCK :] = 0
    return _with(scene, down=down)


def latent_for_shared(scene: Scene) -> Tensor:
    """Give the shared experts the projected tokens, too."""
    truth = _truth(scene)
    _needs_square(truth)
    if scene.answer.shared is None:
        raise NotApplicable("the layer has no shared experts")
    projected = scene.reference.entered(scene.x).to(scene.x.dtype)
    return scene.answer.out - shared_part(scene) + shared_mlp(elsewhere(scene, x=projected))


def shared_left_as_latent(scene: Scene) -> Tensor:
    """Add the shared experts before the way back, not after it."""
    truth = _truth(scene)
    _needs_square(truth)
    part = shared_part(scene)
    return scene.answer.out - part + truth.leave(part)


def _with(scene: Scene, **projections: Tensor) -> Tensor:
    """Compute the output with other projections."""
    truth = _truth(scene)
    mistaken = LatentTruth(
        down=projections.get("down", truth.down), up=projections.get("up", truth.up)
    )
    reference = scene.reference.with_latent(mistaken)
    changed = elsewhere(scene, reference=reference)
    return redo(changed, Steps(leave=lambda _, y: mistaken.leave(y)))


def _truth(scene: Scene) -> LatentTruth:
    if scene.reference.latent is None:
        raise NotApplicable("the experts work on the hidden size itself")
    return scene.reference.latent


def _needs_square(truth: LatentTruth) -> None:
    if truth.down.shape[0] != truth.down.shape[1]:
        raise NotApplicable("the latent width is not the hidden size")
