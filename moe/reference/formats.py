"""Quantize by plain float32 arithmetic, without casts to a small dtype.

`on_grid` rounds values to a grid by scaling with powers of two, which is exact. `quantize` returns
the *values* of the codes, and what tolerances need: the step of each code and the distance of each
value from a rounding tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.formats.grids import divided, float_step
from moe.numerics import Numerics
from moe.reference.block_scales import global_scale, power_of_two, two_level
from moe.spec import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format

_PLAIN = Numerics.stated()
# a layer's dtype -> (bits of the significand, exponent of the smallest step)
_DTYPES = {"bf16": (8, -133), "fp16": (11, -24)}


def step_of(x: Tensor, grid: Format | str) -> Tensor:
    """Return the distance between neighbours on the grid at each value; 0 for `f32`.

    x: any shape. grid: a quantized format, or the dtype of a layer.
    """
    if grid == "f32":
        return torch.zeros_like(x)
    if isinstance(grid, str):
        return float_step(x, *_DTYPES[grid])
    assert grid.truth is not None, f"{grid.name} has no codes"
    step: Tensor = resolve(grid.truth)().step_of(x)
    return step


def on_grid(x: Tensor, grid: Format | str) -> Tensor:
    """Round to the nearest value on the grid, ties to even, without clamping."""
    if grid == "f32":
        return x
    step = step_of(x, grid)
    return (x / step).round_().mul_(step)


def tie_of(x: Tensor, value: Tensor, grid: Format | str) -> Tensor:
    """Return the distance of x from the nearest rounding tie. value: x on the grid.

    Below a power of two, neighbours are half as far apart as above it.
    """
    beyond = x.abs() - value.abs()
    above, below = step_of(value, grid), step_of(value * (1 - 2.0**-20), grid)
    return torch.minimum(above / 2 - beyond, below / 2 + beyond).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """The result of `quantize`.

    values: of the codes, like x. scale, step: broadcastable to them. tie: distance of each value
    from the nearest rounding tie; infinite beyond the largest code, where no code can flip. step
    and tie are in units of the values, not of the codes.
    """

    values: Tensor
    scale: Tensor
    step: Tensor
    tie: Tensor


def scale_for(
    amax: Tensor, fmt: Format, numerics: Numerics = _PLAIN, total: Tensor | None = None
) -> Tensor:
    """Return the scale of values up to amax, in float32 as `numerics` declares; never zero.

    Where it would be zero it is 1. The default is amax times the float32 reciprocal of the largest
    code. e8m0 and e4m3 scales are on their grid; the latter are divided by the global scale
    `total`.
    """
    size = amax.to(torch.float32)
    if numerics.amax_floor or numerics.amax_epsilon:
        size = size.clamp(min=numerics.amax_floor) + (numerics.amax_epsilon or 0.0)
    if fmt.scale_dtype == "e8m0":
        return power_of_two(size, fmt).to(amax.dtype)
    if fmt.scale_dtype == "e4m3":
        assert total is not None, f"{fmt.name} needs a global scale"
        return two_level(size, fmt, total).to(amax.dtype)
    top = fmt.scale_top or fmt.top
    if numerics.scale == "divided" or fmt.scale_divides:
        scaled = divided(size, top).to(amax.dtype)
    else:
        reciprocal = torch.tensor(1.0 / top, dtype=torch.float32, device=amax.device)
        scaled = (size * reciprocal).to(amax.dtype)
    return torch.where(scaled == 0, torch.ones_like(amax), scaled)


def quantize(x: Tensor, scale: Tensor, fmt: Format) -> Quantized:
    """Quantize x with `scale`, broadcastable to x."""
    ratio = x / scale
    clamped = ratio.clamp(fmt.lowest, fmt.top)
    codes = on_grid(clamped, fmt)
    step = step_of(clamped, fmt)
    tie = tie_of(clamped, codes, fmt)
    tie = torch.where(ratio.abs() > fmt.top + step, torch.inf, tie)
    return Quantized(values=codes * scale, scale=scale, step=step * scale, tie=tie * scale)


def quantized_values(x: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """Return `quantize(x, scale, fmt).values`, without what only tolerances need."""
    clamped = (x / scale).clamp_(fmt.lowest, fmt.top)
    return on_grid(clamped, fmt).mul_(scale)


def spread_groups(per_group: Tensor, width: int, group: int) -> Tensor:
    """Repeat [..., ceil(width/group)] to [..., width]."""
    return per_group.repeat_interleave(group, dim=-1)[..., :width]


def group_amax(x: Tensor, group: int) -> Tensor:
    """Return the largest |x| of each group: [..., K] -> [..., ceil(K/group)].

    The last group may be short.
    """
    padded = torch.nn.functional.pad(x.abs(), (0, -x.shape[-1] % group))
    groups = padded.shape[-1] // group
    return padded.reshape(*padded.shape[:-1], groups, group).amax(dim=-1)


def scope_amax(x: Tensor, fmt: Format) -> Tensor:
    """Return the largest |x| that shares a scale with each element of x, broadcastable to x.

    x: [T, K], or [w, T, K] of w ranks with scales of their own.
    """
    assert fmt.block is not None, f"{fmt.name} has no scales"
    rows, columns = fmt.block
    if rows == 1 and columns is not None:
        return spread_groups(group_amax(x, columns), x.shape[-1], columns)
    if rows == 1:
        return x.abs().amax(dim=-1, keepdim=True)
    assert fmt.has_one_scale, f"{fmt.name} has blocks of {rows} tokens: rows would share scales"
    return tensor_amax(x)


def tensor_amax(x: Tensor) -> Tensor:
    """Return the largest |x|, [], or [w, 1, 1] of x [w, T, K]."""
    if x.numel() == 0:
        return x.new_zeros(())
    return x.abs().amax(dim=(-2, -1), keepdim=x.dim() > 2)


def activation_scale(
    x: Tensor, fmt: Format, static: Tensor | None, numerics: Numerics = _PLAIN
) -> Tensor:
    """Return the scale of each element of x [T, K], broadcastable to it.

    static: [] the calibrated scale, or global scale, for formats that have one; also a global scale
    that is known. A dynamic per-tensor scale is taken over all rows of x, so x must hold every row
    that shares the member's scale.
    """
    assert static is not None or not fmt.static, "a static format needs its calibrated scale"
    if fmt.global_scale:
        total = global_scale(tensor_amax(x), fmt) if static is None else static
        return scale_for(scope_amax(x, fmt), fmt, numerics, total)
    if fmt.static and static is not None:
        return static.to(x.dtype)
    return scale_for(scope_amax(x, fmt), fmt, numerics)


def tensor_scale(amax: Tensor, fmt: Format, numerics: Numerics = _PLAIN) -> Tensor:
    """Return what all rows share, from their largest value: the scale, or the global scale.

    The result may be passed to `activation_scale` as `static`.
    """
    if fmt.global_scale:
        return global_scale(amax, fmt).to(amax.dtype)
    return scale_for(amax, fmt, numerics)


def weight_values(w: Tensor, fmt: Format) -> Tensor:
    """Return the values of the codes of one expert's matrix [O, I]."""
    if fmt.grid == "model":
        return w
    scale = weight_scale(w, fmt)
    if not fmt.zero_point:
        return quantized_values(w, scale, fmt)
    zero = zero_points(w, scale, fmt)
    codes = (w / scale + zero).round().clamp(fmt.lowest, fmt.top)
    return (codes - zero) * scale


def rounded_weight_values(w: Tensor, fmt: Format, model: str) -> Tensor:
    """Return `weight_values`, with scales and their products with the codes rounded.

    model: the dtype to which both are rounded; `f32`: nothing is.
    """
    values = weight_values(w, fmt)
    if model == "f32" or fmt.grid == "model" or fmt.scale_dtype == "e8m0":
        return values  # a power of two rounds nothing
    scale = weight_scale(w, fmt)
    steps = values / scale
    codes = steps.round() if fmt.zero_point or fmt.is_integer else on_grid(steps, fmt)
    return on_grid(codes * on_grid(scale, model), model)


def zero_points(w: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """Return the code of 0 for each element of one expert's matrix [O, I]."""
    smallest, _ = _group_range(w, fmt)
    return (-smallest / scale).clamp(fmt.lowest, fmt.top).round()


def _group_range(w: Tensor, fmt: Format) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value in each element's group, and 0, for w [O, I]."""
    assert fmt.group is not None
    padded = torch.nn.functional.pad(w, (0, -w.shape[1] % fmt.group))
    groups = padded.reshape(len(w), -1, fmt.group)
    low, high = groups.amin(dim=2).clamp(max=0), groups.amax(dim=2).clamp(min=0)
    return (
        spread_groups(low, w.shape[1], fmt.group),
        spread_groups(high, w.shape[1], fmt.group),
    )


def weight_scale(w: Tensor, fmt: Format) -> Tensor:
    """Return the scale of each element of one expert's matrix [O, I], broadcastable to it."""
    assert fmt.block is not None, f"{fmt.name} has no scales"
    if fmt.zero_point:
        low, high = _group_range(w, fmt)
        scale = divided(high.float() - low.float(), fmt.top - fmt.lowest)
        return torch.where(scale == 0, 1.0, scale).to(w.dtype)
    rows, columns = fmt.block
    amax = w.abs()
    if columns is None:
        amax = amax.amax(dim=1, keepdim=True)
    elif columns > 1:
        amax = spread_groups(group_amax(amax, columns), w.shape[1], columns)
    if rows is None:
        amax = amax.amax(dim=0, keepdim=True)
    elif rows > 1:
        amax = spread_groups(group_amax(amax.T, rows), w.shape[0], rows).T
    total = global_scale(w.abs().amax(), fmt) if fmt.global_scale else None
    return scale_for(amax, fmt, total=total)
