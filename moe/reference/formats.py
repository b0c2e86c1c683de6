"""Number formats by plain arithmetic: no cast to a small dtype, so nothing to trust but float32.

`on_grid` puts values on a grid by scaling with powers of two, which is exact. `fake_quantize`
gives back the *values* that the codes stand for, and keeps what the bounds need: the step of
each code and how far each value was from a rounding tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.formats.grids import float_step
from moe.spec import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format

# a layer's dtype -> (bits of the significand, exponent of the smallest step)
_DTYPES = {"bf16": (8, -133), "fp16": (11, -24)}


def step_of(x: Tensor, grid: Format | str) -> Tensor:
    """The distance between neighbours of the grid at each value: [*] like x; 0 for `f32`.

    grid: a quantized format, whose truth is asked, or a layer's dtype.
    """
    if grid == "f32":
        return torch.zeros_like(x)
    if isinstance(grid, str):
        return float_step(x, *_DTYPES[grid])
    assert grid.truth is not None, f"{grid.name} has no codes"
    step: Tensor = resolve(grid.truth)().step_of(x)
    return step


def on_grid(x: Tensor, grid: Format | str) -> Tensor:
    """Nearest grid value, ties to even. No clamping: quantizers clamp before."""
    if grid == "f32":
        return x
    step = step_of(x, grid)
    return (x / step).round() * step


def tie_of(x: Tensor, value: Tensor, grid: Format | str) -> Tensor:
    """[*] how far x is from the nearest rounding tie, `value` being x on the grid.

    Below a power of two neighbours are half as far apart as above it.
    """
    beyond = x.abs() - value.abs()
    above, below = step_of(value, grid), step_of(value * (1 - 2.0**-20), grid)
    return torch.minimum(above / 2 - beyond, below / 2 + beyond).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """values: what the codes stand for. scale, step: [*] broadcastable; step is in values.

    tie: distance of each value from the nearest rounding tie, in values; beyond the largest
    code, where nothing can flip, it is infinite.
    """

    values: Tensor
    scale: Tensor
    step: Tensor
    tie: Tensor


def scale_for(amax: Tensor, fmt: Format) -> Tensor:
    """amax times the float32 reciprocal of the largest code; 1 where everything is zero."""
    reciprocal = torch.tensor(1.0 / fmt.top, dtype=torch.float32, device=amax.device)
    scaled = (amax.to(torch.float32) * reciprocal).to(amax.dtype)
    return torch.where(scaled == 0, torch.ones_like(amax), scaled)


def quantize(x: Tensor, scale: Tensor, fmt: Format) -> Quantized:
    """x: float; scale: broadcastable to x."""
    ratio = x / scale
    clamped = ratio.clamp(-fmt.top, fmt.top)
    codes = on_grid(clamped, fmt)
    step = step_of(clamped, fmt)
    tie = tie_of(clamped, codes, fmt)
    tie = torch.where(ratio.abs() > fmt.top + step, torch.inf, tie)
    return Quantized(values=codes * scale, scale=scale, step=step * scale, tie=tie * scale)


def spread_groups(per_group: Tensor, width: int, group: int) -> Tensor:
    """[..., ceil(width/group)] -> [..., width]."""
    return per_group.repeat_interleave(group, dim=-1)[..., :width]


def group_amax(x: Tensor, group: int) -> Tensor:
    """[..., K] -> [..., ceil(K/group)]; the last group may be short."""
    padded = torch.nn.functional.pad(x.abs(), (0, -x.shape[-1] % group))
    groups = padded.shape[-1] // group
    return padded.reshape(*padded.shape[:-1], groups, group).amax(dim=-1)


def scope_amax(x: Tensor, fmt: Format) -> Tensor:
    """The largest |x| that shares a scale with each element of x, broadcastable to it.

    x: [T, K], or [w, T, K] of w ranks that share none.
    """
    assert fmt.block is not None, f"{fmt.name} has no scales"
    rows, columns = fmt.block
    if rows == 1 and columns is not None:
        return spread_groups(group_amax(x, columns), x.shape[-1], columns)
    if rows == 1:
        return x.abs().amax(dim=-1, keepdim=True)
    assert fmt.has_one_scale, f"{fmt.name} has blocks of {rows} tokens: rows would not be their own"
    if x.numel() == 0:
        return x.new_zeros(())
    return x.abs().amax(dim=(-2, -1), keepdim=x.dim() > 2)


def activation_scale(x: Tensor, fmt: Format, static: Tensor | None) -> Tensor:
    """The scale of each element of x [T, K], broadcastable to it.

    static: [] the calibrated scale, for formats that have one. A per-tensor scale that is not
    static is taken over the rows given here: hand in all that the member takes it over.
    """
    if fmt.static:
        assert static is not None, "a static format needs its calibrated scale"
        return static.to(x.dtype)
    return scale_for(scope_amax(x, fmt), fmt)


def weight_values(w: Tensor, fmt: Format) -> Tensor:
    """One expert's matrix [O, I] -> the values that its codes stand for."""
    if fmt.grid == "model":
        return w
    return quantize(w, weight_scale(w, fmt), fmt).values


def weight_scale(w: Tensor, fmt: Format) -> Tensor:
    """The scale of each element of one expert's matrix [O, I], broadcastable to it."""
    assert fmt.block is not None, f"{fmt.name} has no scales"
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
    return scale_for(amax, fmt)
