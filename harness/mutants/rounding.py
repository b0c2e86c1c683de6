"""Compute outputs with numbers in another format than the scheme requires."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from harness.mutants import NotApplicable
from harness.mutants.recompute import redo
from harness.mutants.steps import (
    Steps,
    expert_input,
    input_scale,
    second_scale,
)
from moe.reference import formats
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene

CHUNK = 32  # products that are added before a narrow accumulator is rounded


def activations_unquantized(scene: Scene) -> Tensor:
    _needs_codes(scene)
    return redo(scene, Steps(inputs=_plain_input, second=lambda _, h, __: h))


def second_unquantized(scene: Scene) -> Tensor:
    _needs_codes(scene)
    return redo(scene, Steps(second=lambda _, h, __: h))


def weights_unquantized(scene: Scene) -> Tensor:
    _needs_weight_codes(scene)
    return redo(scene, Steps(w13=lambda _, e: e.plain[0], w2=lambda _, e: e.plain[1]))


def _plain_input(scene: Scene, rows: Tensor, slots: Tensor) -> Tensor:
    del slots
    return expert_input(scene)[rows]


# A quotient that float32's noise leaves just below a code counts as that code: the largest value of
# a block is its scale times the largest code.
_JUST_BELOW = 1 + 2**-20


def codes_truncated(scene: Scene) -> Tensor:
    _needs_codes(scene)
    fmt = scene.reference.act_format

    def cut(x: Tensor, scale: Tensor) -> Tensor:
        ratio = (x / scale).clamp(-fmt.top, fmt.top)
        step = formats.step_of(ratio, fmt)
        return (ratio / step * _JUST_BELOW).trunc() * step * scale

    def inputs(scene: Scene, rows: Tensor, _: Tensor) -> Tensor:
        return cut(expert_input(scene), input_scale(scene))[rows]

    return redo(scene, Steps(inputs=inputs, second=lambda s, h, w: cut(h, second_scale(s, h, w))))


def overflow_to_nan(scene: Scene) -> Tensor:
    """Give NaN where a cast to fp8 without a clamp would: above the largest code's tie."""
    _needs_fp8(scene)
    fmt = scene.reference.act_format
    overflowed = False

    def cast(x: Tensor, scale: Tensor) -> Tensor:
        nonlocal overflowed
        ratio = x / scale
        beyond = ratio.abs() > fmt.top + formats.step_of(ratio.new_full((), fmt.top), fmt) / 2
        overflowed |= bool(beyond.any())
        values = formats.on_grid(ratio.clamp(-fmt.top, fmt.top), fmt) * scale
        return values.masked_fill(beyond, torch.nan)

    def inputs(scene: Scene, rows: Tensor, _: Tensor) -> Tensor:
        return cast(expert_input(scene), input_scale(scene))[rows]

    steps = Steps(inputs=inputs, second=lambda s, h, w: cast(h, second_scale(s, h, w)))
    out = redo(scene, steps)
    if not overflowed:
        raise NotApplicable("nothing in these rows is beyond the range")
    return out


def fnuz_codes(scene: Scene) -> Tensor:
    _needs_weight_codes(scene)
    if scene.reference.weight_format.grid != "e4m3":
        raise NotApplicable("nothing is quantized to fp8")
    return redo(scene, Steps(w13=lambda _, e: e.w13 / 2, w2=lambda _, e: e.w2 / 2))


def bf16_accumulation(scene: Scene) -> Tensor:
    dtype = scene.case.dtype
    if dtype == "f32":
        raise NotApplicable("the model dtype is float32")

    def chunks(_: Scene, x: Tensor, w: Tensor) -> Tensor:
        """Return [..., R, chunks, O], what each CHUNK terms of a sum add to it."""
        fill = (0, -x.shape[-1] % CHUNK)
        padded = (pad(t, fill) for t in (x, w))
        x_chunks, w_chunks = (t.reshape(*t.shape[:-1], -1, CHUNK) for t in padded)
        return torch.einsum("...rci,...oci->...rco", x_chunks, w_chunks)

    def narrow(_: Scene, products: Tensor) -> Tensor:
        total = torch.zeros_like(products[..., 0, :])
        for part in products.unbind(-2):
            total = (total + part).to(TORCH_DTYPE[dtype]).to(part.dtype)
        return total

    return redo(scene, Steps(product=chunks, total=narrow))


def _needs_codes(scene: Scene) -> None:
    if scene.reference.act_format.grid == "model":
        raise NotApplicable("nothing is quantized")


def _needs_weight_codes(scene: Scene) -> None:
    if scene.reference.weight_format.grid == "model":
        raise NotApplicable("nothing is quantized")


def _needs_fp8(scene: Scene) -> None:
    _needs_codes(scene)
    if scene.reference.act_format.grid != "e4m3":
        raise NotApplicable("nothing is quantized to fp8")
