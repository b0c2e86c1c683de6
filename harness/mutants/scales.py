"""Compute outputs with scales shifted, transposed, applied twice, left out or taken elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.mutants import NotApplicable
from harness.mutants.recompute import redo
from harness.mutants.steps import (
    Matrices,
    Steps,
    codes,
    expert_input,
    input_scale,
    quantized_input,
    right_second,
    second_scale,
)
from moe.reference import formats

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.mutants.sample import Scene
    from moe.formats.format import Format


def scale_shifted(scene: Scene) -> Tensor:
    return _with_shifted(scene, "w13", 1)


def w2_scale_shifted(scene: Scene) -> Tensor:
    return _with_shifted(scene, "w2", 1)


def scale_shifted_back(scene: Scene) -> Tensor:
    return _with_shifted(scene, "w13", -1)


def w2_scale_shifted_back(scene: Scene) -> Tensor:
    return _with_shifted(scene, "w2", -1)


def _with_shifted(scene: Scene, weight: str, step: int) -> Tensor:
    """Shift the scales of one matrix. step: 1 or -1.

    With 1, each block or channel gets the previous one's scale, and each expert the next one's.
    """
    _needs_codes(scene)
    return redo(scene, _scaled(weight, lambda e: _shifted(scene, e, weight, step)))


def _scaled(weight: str, factor: Callable[[Matrices], Tensor]) -> Steps:
    """Return steps in which an expert's w13 or w2 is multiplied by a factor."""
    if weight == "w13":
        return Steps(w13=lambda _, e: e.w13 * factor(e))
    return Steps(w2=lambda _, e: e.w2 * factor(e))


def _shifted(scene: Scene, expert: Matrices, weight: str, step: int) -> Tensor:
    """Return the factor of each value if its scale is the neighbour's."""
    scale = expert.scale13 if weight == "w13" else expert.scale2
    fmt, experts = scene.reference.weight_format, scene.case.num_experts
    if fmt.has_one_scale:
        if experts == 1:
            raise NotApplicable("there is one expert, hence one scale, only")
        _two_directions(experts, step)
        return _scale_of((expert.expert + step) % experts, scene, weight) / scale
    blocks = _blocks(scale, fmt)
    if blocks.numel() == 1:
        raise NotApplicable("the matrix is one block")
    axis = 1 if blocks.shape[1] > 1 else 0
    _two_directions(blocks.shape[axis], step)
    return _spread(blocks.roll(step, dims=axis) / blocks, scale, fmt)


def _two_directions(count: int, step: int) -> None:
    if count == 2 and step < 0:
        raise NotApplicable("of two scales each is next to the other, either way")


def _scale_of(expert: int, scene: Scene, weight: str) -> Tensor:
    """Return the scales of an expert's w13 or w2, broadcastable to it."""
    w13, w2 = scene.reference.expert(expert)
    return formats.weight_scale(w13 if weight == "w13" else w2, scene.reference.weight_format)


def _blocks(scale: Tensor, fmt: Format) -> Tensor:
    """Return one number for each block, from a scale broadcastable to a matrix [O, I]."""
    assert fmt.block is not None
    rows, columns = fmt.block
    return scale[:: rows or len(scale), :: columns or scale.shape[1]]


def _spread(blocks: Tensor, like: Tensor, fmt: Format) -> Tensor:
    assert fmt.block is not None
    for axis, side in enumerate(fmt.block):
        if side is not None and side > 1:
            blocks = blocks.repeat_interleave(side, dim=axis)
    return blocks[: like.shape[0], : like.shape[1]]


def w13_scale_transposed(scene: Scene) -> Tensor:
    _needs_codes(scene)
    return redo(scene, Steps(w13=lambda s, e: e.w13 * _transposed(s, e.scale13)))


def w2_scale_transposed(scene: Scene) -> Tensor:
    _needs_codes(scene)
    return redo(scene, Steps(w2=lambda s, e: e.w2 * _transposed(s, e.scale2)))


def _transposed(scene: Scene, scale: Tensor) -> Tensor:
    """Return the factor of each value if the block scales are read by columns."""
    fmt = scene.reference.weight_format
    if fmt.block is None or None in fmt.block:
        raise NotApplicable("the scales are not a matrix of blocks")
    blocks = _blocks(scale, fmt)
    if min(blocks.shape) == 1:
        raise NotApplicable("the scales are a single row or column")
    return _spread(blocks.T.reshape(blocks.shape) / blocks, scale, fmt)


def up_scale_from_gate(scene: Scene) -> Tensor:
    return _half_from_other(scene, up=True)


def gate_scale_from_up(scene: Scene) -> Tensor:
    return _half_from_other(scene, up=False)


def _half_from_other(scene: Scene, *, up: bool) -> Tensor:
    _needs_codes(scene)
    if scene.reference.weight_format.has_one_scale:
        raise NotApplicable("gate and up share one scale")
    if not scene.reference.activation.gated:
        raise NotApplicable("the layer's activation is not gated")

    def with_other_scale(_: Scene, e: Matrices) -> Tensor:
        gate, other = e.scale13.chunk(2, dim=0)
        ratio = torch.ones_like(e.scale13)
        half = len(gate)
        if up:
            ratio[half:] = gate / other
        else:
            ratio[:half] = other / gate
        return e.w13 * ratio

    return redo(scene, Steps(w13=with_other_scale))


def w13_scale_twice(scene: Scene) -> Tensor:
    _needs_codes(scene)
    return redo(scene, Steps(w13=lambda _, e: e.w13 * e.scale13))


def w13_scale_missing(scene: Scene) -> Tensor:
    _needs_codes(scene)
    return redo(scene, Steps(w13=lambda _, e: e.w13 / e.scale13))


def w2_scale_twice(scene: Scene) -> Tensor:
    _needs_codes(scene)
    return redo(scene, Steps(w2=lambda _, e: e.w2 * e.scale2))


def w2_scale_missing(scene: Scene) -> Tensor:
    _needs_codes(scene)
    return redo(scene, Steps(w2=lambda _, e: e.w2 / e.scale2))


def input_scale_twice(scene: Scene) -> Tensor:
    _needs_activation_codes(scene)
    return redo(scene, Steps(inputs=lambda s, r, _: (quantized_input(s) * input_scale(s))[r]))


def input_scale_missing(scene: Scene) -> Tensor:
    _needs_activation_codes(scene)
    return redo(scene, Steps(inputs=lambda s, r, _: (quantized_input(s) / input_scale(s))[r]))


def second_scale_twice(scene: Scene) -> Tensor:
    _needs_activation_codes(scene)
    return redo(scene, Steps(second=lambda s, h, w: right_second(s, h, w) * second_scale(s, h, w)))


def second_scale_missing(scene: Scene) -> Tensor:
    _needs_activation_codes(scene)
    return redo(scene, Steps(second=lambda s, h, w: right_second(s, h, w) / second_scale(s, h, w)))


def second_scale_from_input(scene: Scene) -> Tensor:
    _needs_static(scene)
    fmt = scene.reference.act_format

    def quantize(scene: Scene, h: Tensor, _: int) -> Tensor:
        calibrated = scene.answer.tensor_scales[0]  # beside scales of groups it is a global one
        one = fmt.has_one_scale
        scale = input_scale(scene) if one else formats.activation_scale(h, fmt, calibrated)
        return codes(h, scale, fmt) * scale

    return redo(scene, Steps(second=quantize))


def input_scale_from_second(scene: Scene) -> Tensor:
    _needs_static(scene)
    fmt = scene.reference.act_format

    def quantize(scene: Scene, rows: Tensor, _: Tensor) -> Tensor:
        x = expert_input(scene)[rows]
        scale = second_scale(scene, x, scene.rank)
        return codes(x, scale, fmt) * scale

    return redo(scene, Steps(inputs=quantize))


def input_groups_shifted(scene: Scene) -> Tensor:
    _needs_activation_codes(scene)
    _, group = scene.reference.act_format.block or (None, None)
    if group is None:
        raise NotApplicable("the input's scales are not by groups")
    if scene.case.expert_case.k <= group:
        raise NotApplicable("a row is one group")

    def quantize(scene: Scene, rows: Tensor, _: Tensor) -> Tensor:
        scale = input_scale(scene)
        groups = scale[:, ::group]
        ratio = (groups.roll(1, dims=1) / groups).repeat_interleave(group, dim=1)
        return (quantized_input(scene) * ratio[:, : scale.shape[1]])[rows]

    return redo(scene, Steps(inputs=quantize))


def _needs_codes(scene: Scene) -> None:
    if scene.reference.weight_format.grid == "model":
        raise NotApplicable("nothing is quantized")


def _needs_activation_codes(scene: Scene) -> None:
    if scene.reference.act_format.grid == "model":
        raise NotApplicable("nothing is quantized")


def _needs_static(scene: Scene) -> None:
    if not scene.reference.act_format.static:
        raise NotApplicable("no scale is static")
