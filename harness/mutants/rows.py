"""Compute outputs with wrong rows or wrong columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.mutants import NotApplicable
from harness.mutants.contributions import added_distance, residual
from moe.spec import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene

ROW_BLOCK = 16  # tokens that a tile of rows has at least


def zeros(scene: Scene) -> Tensor:
    return torch.zeros_like(scene.answer.out)


def halved(scene: Scene) -> Tensor:
    return scene.answer.out * 0.5


def doubled(scene: Scene) -> Tensor:
    return scene.answer.out * 2.0


def negated(scene: Scene) -> Tensor:
    return -scene.answer.out


def rolled(scene: Scene) -> Tensor:
    return _rows_before(scene, 1)


def rows_off_by_block(scene: Scene) -> Tensor:
    return _rows_before(scene, ROW_BLOCK)


def _rows_before(scene: Scene, distance: int) -> Tensor:
    if distance % scene.tokens == 0:
        raise NotApplicable(f"rolling {scene.tokens} row(s) by {distance} changes none")
    return scene.all_rows[(scene.rows - distance) % scene.tokens]


def swapped(scene: Scene) -> Tensor:
    """Swap the pair that best explains the output; if it is correct, the hardest to notice."""
    count = len(scene.rows)
    if count < 2:
        raise NotApplicable("there is one token only")
    actual = torch.nan_to_num(scene.actual.to(scene.answer.out.dtype))
    distance = torch.cdist(actual, scene.answer.out).square()
    unswapped = distance.diagonal()
    cost = distance + distance.T - unswapped[:, None] - unswapped[None, :]
    cost.fill_diagonal_(torch.inf)
    i, j = divmod(int(cost.argmin()), count)
    out = scene.answer.out.clone()
    out[i], out[j] = scene.answer.out[j], scene.answer.out[i]
    return out


def row_zeroed(scene: Scene) -> Tensor:
    out = scene.answer.out.clone()
    cost = added_distance(residual(scene), -out)
    out[cost.argmin()] = 0
    return out


def last_block_zeroed(scene: Scene) -> Tensor:
    out = scene.answer.out.clone()
    width = out.shape[1]
    out[:, (width - 1) // BLOCK * BLOCK :] = 0
    return out


def columns_rolled(scene: Scene) -> Tensor:
    _needs_blocks(scene)
    return scene.answer.out.roll(BLOCK, dims=1)


def columns_reversed_blocks(scene: Scene) -> Tensor:
    _needs_blocks(scene)
    blocks = torch.split(scene.answer.out, BLOCK, dim=1)
    return torch.cat(blocks[::-1], dim=1)


def _needs_blocks(scene: Scene) -> None:
    if scene.answer.out.shape[1] <= BLOCK:
        raise NotApplicable(f"the hidden size is one block of {BLOCK}")


def odd_columns_swapped(scene: Scene) -> Tensor:
    out = scene.answer.out
    if out.shape[1] < 2:
        raise NotApplicable("there is one hidden column only")
    order = torch.arange(out.shape[1], device=out.device)
    order[: len(order) // 2 * 2] ^= 1
    return out[:, order]
