"""Compute outputs with scales of other experts, or with one scale for several rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.mutants import NotApplicable
from harness.mutants.recompute import redo
from harness.mutants.steps import (
    Matrices,
    Steps,
    codes,
    matrices,
)
from harness.mutants.weights import neighbour
from moe.reference import formats

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.mutants.sample import Scene


def w13_scale_of_first_expert(scene: Scene) -> Tensor:
    return _with_scale_of(scene, "w13", _first)


def w2_scale_of_first_expert(scene: Scene) -> Tensor:
    return _with_scale_of(scene, "w2", _first)


def w13_scale_of_next_expert(scene: Scene) -> Tensor:
    _needs_many(scene)
    return _with_scale_of(scene, "w13", lambda s, e: neighbour(s, e, 1))


def w2_scale_of_next_expert(scene: Scene) -> Tensor:
    _needs_many(scene)
    return _with_scale_of(scene, "w2", lambda s, e: neighbour(s, e, 1))


def w13_scale_of_expert_before(scene: Scene) -> Tensor:
    _needs_many(scene)
    return _with_scale_of(scene, "w13", lambda s, e: neighbour(s, e, -1))


def w2_scale_of_expert_before(scene: Scene) -> Tensor:
    _needs_many(scene)
    return _with_scale_of(scene, "w2", lambda s, e: neighbour(s, e, -1))


def _with_scale_of(scene: Scene, weight: str, other: Callable[[Scene, int], int]) -> Tensor:
    """Use the scales of expert `other(scene, e)` for one matrix, w13 or w2, of each expert e."""
    if scene.reference.weight_format.grid == "model":
        raise NotApplicable("nothing is quantized")

    def w13(s: Scene, e: Matrices) -> Tensor:
        return e.w13 * (matrices(s, other(s, e.expert)).scale13 / e.scale13)

    def w2(s: Scene, e: Matrices) -> Tensor:
        return e.w2 * (matrices(s, other(s, e.expert)).scale2 / e.scale2)

    return redo(scene, Steps(w13=w13) if weight == "w13" else Steps(w2=w2))


def _first(scene: Scene, expert: int) -> int:
    """Return the first expert of the rank that holds `expert`."""
    experts_by_rank = scene.reference.layer_spec.experts_by_rank
    if max(len(experts) for experts in experts_by_rank) == 1:
        raise NotApplicable("no rank has more than one expert")
    return next(experts for experts in experts_by_rank if expert in experts)[0]


def _needs_many(scene: Scene) -> None:
    if scene.reference.weight_format.has_one_scale:
        raise NotApplicable("an expert has one scale: that is scales off by one expert")


def second_scale_of_all_rows(scene: Scene) -> Tensor:
    """Scale the intermediate by its largest value over all rows, instead of per row."""
    fmt = scene.reference.act_format
    if fmt.grid == "model":
        raise NotApplicable("nothing is quantized")
    if fmt.has_one_scale:
        raise NotApplicable("one scale for all rows is right")
    if fmt.global_scale:
        raise NotApplicable("a scale of all rows is the global one, beside those of the groups")
    scale = formats.scale_for(scene.answer.amax2, fmt)

    def together(_: Scene, h: Tensor, __: int) -> Tensor:
        return codes(h, scale, fmt) * scale

    return redo(scene, Steps(second=together))
