"""Compute outputs with packed codes, zero points, exponents or global scales read wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.mutants import NotApplicable
from harness.mutants.recompute import redo
from harness.mutants.steps import (
    Matrices,
    Steps,
)
from moe.reference import formats
from moe.reference.block_scales import global_scale

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.mutants.sample import Scene

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the codes in a word of an AWQ checkpoint


def nibbles_swapped(scene: Scene) -> Tensor:
    """Exchange the codes of each byte; both have the same scale and zero point."""
    _needs(scene.reference.weight_format.packing > 1, "no codes share a byte")
    return _with_columns(scene, (1, 0))


def words_in_awq_order(scene: Scene) -> Tensor:
    """Read eight codes that are stored in order as if they were in AWQ's order."""
    fmt = scene.reference.weight_format
    _needs(fmt.packing > 1 and fmt.grid.endswith("int4"), "no words of four-bit integers")
    _needs(not fmt.zero_point, "the words are in AWQ's order")
    return _with_columns(scene, tuple(_AWQ_ORDER.index(i) for i in range(8)))


def words_out_of_awq_order(scene: Scene) -> Tensor:
    """Read eight codes, and zero points, of outputs that are in AWQ's order as if in order."""
    fmt = scene.reference.weight_format
    _needs(fmt.packing > 1 and fmt.zero_point, "no words are in AWQ's order")
    order = torch.tensor(_AWQ_ORDER, device=scene.x.device)

    def read(w: Tensor, scale: Tensor) -> Tensor:
        rows = torch.arange(len(w), device=w.device).reshape(-1, 8)[:, order].flatten()
        return w[rows] / scale[rows] * scale

    return _of_both(scene, lambda w, scale, _: read(w, scale))


def _with_columns(scene: Scene, order: tuple[int, ...]) -> Tensor:
    """Permute each len(order) columns of the codes; a group's scale stays where it is."""

    def permute(w: Tensor) -> Tensor:
        places = torch.tensor(order, device=w.device)
        columns = torch.arange(w.shape[1], device=w.device).reshape(-1, len(order))
        return w[:, columns[:, places].flatten()]

    return _of_both(scene, lambda w, _, __: permute(w))


def zero_points_ignored(scene: Scene) -> Tensor:
    fmt = scene.reference.weight_format
    _needs(fmt.zero_point, "there are no zero points")
    return _of_both(
        scene, lambda w, scale, plain: w + formats.zero_points(plain, scale, fmt) * scale
    )


def zero_points_one_too_low(scene: Scene) -> Tensor:
    """Take GPTQ's stored zero points, which are one less, for the zero points."""
    _needs(scene.reference.weight_format.zero_point, "there are no zero points")
    return _of_both(scene, lambda w, scale, _: w + scale)


def exponents_one_too_high(scene: Scene) -> Tensor:
    _needs_exponents(scene)
    return _of_both(scene, lambda w, _, __: w * 2)


def exponents_one_too_low(scene: Scene) -> Tensor:
    _needs_exponents(scene)
    return _of_both(scene, lambda w, _, __: w / 2)


def global_scales_missing(scene: Scene) -> Tensor:
    """Leave them out. Applied twice, they make the second product's codes zeros: `zeros`."""
    fmt = scene.reference.weight_format
    _needs(fmt.global_scale, "there is no global scale")
    return _of_both(
        scene, lambda w, _, plain: w * global_scale(plain.abs().amax(), fmt).to(w.dtype)
    )


def w2_global_scale_from_w13(scene: Scene) -> Tensor:
    fmt = scene.reference.weight_format
    _needs(fmt.global_scale, "there is no global scale")

    def w2(_: Scene, e: Matrices) -> Tensor:
        first, second = (global_scale(plain.abs().amax(), fmt) for plain in e.plain)
        return e.w2 * (second / first).to(e.w2.dtype)

    return redo(scene, Steps(w2=w2))


def _of_both(scene: Scene, change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Change both matrices of each expert: change(values, scale of each, values before codes)."""

    def w13(_: Scene, e: Matrices) -> Tensor:
        return change(e.w13, e.scale13, e.plain[0])

    def w2(_: Scene, e: Matrices) -> Tensor:
        return change(e.w2, e.scale2, e.plain[1])

    return redo(scene, Steps(w13=w13, w2=w2))


def _needs_exponents(scene: Scene) -> None:
    _needs(scene.reference.weight_format.scale_dtype == "e8m0", "no scale is a power of two")


def _needs(condition: bool, reason: str) -> None:
    if not condition:
        raise NotApplicable(reason)
