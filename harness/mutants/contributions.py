"""What each rank and each slot adds to the rows of a scene, and which of them is off.

Mistakes that befall one of many (an expert, a rank, a row) take the one that is nearest to what
was seen. Where the output is wrong that is the culprit; where it is right it is the one whose
loss is the hardest to notice, so a battery that catches it would catch any. The culprit is told:
ranks that blame the same one agree, ranks that blame each other do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene

_CULPRIT = ("culprit",)


def blame(scene: Scene, culprit: str) -> None:
    """Say which of many the mistake that is being worked out befell."""
    scene.memo[_CULPRIT] = culprit


def blamed(scene: Scene) -> str:
    """The latest word of `blame`, once; empty when there is none."""
    return str(scene.memo.pop(_CULPRIT, ""))


def residual(scene: Scene) -> Tensor:
    """[r, K] what was seen less what is right, 0 where NaN was seen."""
    return torch.nan_to_num(scene.actual.to(scene.answer.out.dtype) - scene.answer.out)


def by_slot(scene: Scene) -> Tensor:
    """[r, k, K] what each slot adds, weighted, over all ranks."""
    parts = parts_of(scene)
    return torch.einsum("wrkh,rk->rkh", parts, scene.topk_weights.to(parts.dtype))


def by_rank(scene: Scene) -> Tensor:
    """[W, r, K] what each rank adds, weighted, over all slots."""
    parts = parts_of(scene)
    return torch.einsum("wrkh,rk->wrh", parts, scene.topk_weights.to(parts.dtype))


def parts_of(scene: Scene) -> Tensor:
    """[W, r, k, K] unweighted."""
    assert scene.answer.parts is not None, "a scene's answer keeps its parts"
    return scene.answer.parts


def farther(seen: Tensor, change: Tensor) -> Tensor:
    """[...] how much farther off (squared) an output is with each change [..., K] than without.

    seen: [..., K] broadcastable, the residual. The least is the change that explains it best.
    """
    return ((change - 2 * seen) * change).sum(dim=-1)
