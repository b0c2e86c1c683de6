"""Compute what each rank and each slot adds to the rows of a scene, and which of them is wrong.

A mistake that affects one of many (an expert, a rank, a row) picks the one that best explains the
actual output. If the output is wrong, that is the culprit; if it is correct, it is the one whose
loss is hardest to notice, so a check that rejects it would reject any other. The culprit is named,
so that the report can tell ranks that blame the same one from ranks that blame each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene

_CULPRIT = ("culprit",)


def blame(scene: Scene, culprit: str) -> None:
    """Record the culprit of the mistake that is being computed."""
    scene.memo[_CULPRIT] = culprit


def blamed(scene: Scene) -> str:
    """Return the culprit last recorded and forget it; empty if there is none."""
    return str(scene.memo.pop(_CULPRIT, ""))


def residual(scene: Scene) -> Tensor:
    """Return [r, K], the actual output minus the reference; 0 where the output is NaN."""
    return torch.nan_to_num(scene.actual.to(scene.answer.out.dtype) - scene.answer.out)


def by_slot(scene: Scene) -> Tensor:
    """Return [r, k, K], the weighted contribution of each slot, summed over ranks."""
    parts = parts_of(scene)
    return torch.einsum("wrkh,rk->rkh", parts, scene.topk_weights.to(parts.dtype))


def by_rank(scene: Scene) -> Tensor:
    """Return [W, r, K], the weighted contribution of each rank, summed over slots."""
    parts = parts_of(scene)
    return torch.einsum("wrkh,rk->wrh", parts, scene.topk_weights.to(parts.dtype))


def parts_of(scene: Scene) -> Tensor:
    """Return [W, r, k, K], the unweighted contribution of each rank and slot."""
    assert scene.answer.parts is not None, "a scene's answer keeps its parts"
    return scene.answer.parts


def added_distance(residual: Tensor, change: Tensor) -> Tensor:
    """Return [...], what each change adds to the squared distance from the actual output.

    residual, change: [..., K], broadcastable. The smallest is the change that explains it best.
    """
    return ((change - 2 * residual) * change).sum(dim=-1)
