"""Number formats by plain arithmetic: no cast to a small dtype, so nothing to trust but float32.

`on_grid` puts values on a grid by scaling with powers of two, which is exact. `fake_quantize`
gives back the *values* that the codes stand for, and keeps what the bounds need: the step of
each code and how far each value was from a rounding tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.spec import Format

BLOCK = 128

# grid -> (bits of the significand, exponent of the smallest step)
_GRIDS = {"bf16": (8, -133), "fp16": (11, -24), "e4m3": (4, -9)}


def step_of(x: Tensor, grid: str) -> Tensor:
    """The distance between neighbours of the grid at each value: [*] like x; 0 for `f32`."""
    if grid == "f32":
        return torch.zeros_like(x)
    if grid == "int8":
        return torch.ones_like(x)
    bits, smallest = _GRIDS[grid]
    _, exponent = torch.frexp(x)
    exponent = torch.where(x == 0, smallest, exponent - bits).clamp(min=smallest)
    return torch.ldexp(torch.ones_like(x), exponent)


def on_grid(x: Tensor, grid: str) -> Tensor:
    """Nearest grid value, ties to even. No clamping: quantizers clamp before."""
    if grid == "f32":
        return x
    step = step_of(x, grid)
    return (x / step).round() * step


def tie_of(x: Tensor, value: Tensor, grid: str) -> Tensor:
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
    codes = on_grid(clamped, fmt.grid)
    step = step_of(clamped, fmt.grid)
    tie = tie_of(clamped, codes, fmt.grid)
    tie = torch.where(ratio.abs() > fmt.top + step, torch.inf, tie)
    return Quantized(values=codes * scale, scale=scale, step=step * scale, tie=tie * scale)


def spread_groups(per_group: Tensor, width: int) -> Tensor:
    """[..., ceil(width/128)] -> [..., width]."""
    return per_group.repeat_interleave(BLOCK, dim=-1)[..., :width]


def group_amax(x: Tensor) -> Tensor:
    """[..., K] -> [..., ceil(K/128)]; the last group may be short."""
    padded = torch.nn.functional.pad(x.abs(), (0, -x.shape[-1] % BLOCK))
    groups = padded.shape[-1] // BLOCK
    return padded.reshape(*padded.shape[:-1], groups, BLOCK).amax(dim=-1)


def scope_amax(x: Tensor, fmt: Format) -> Tensor:
    """The largest |x| that shares a scale with each element of x, broadcastable to it.

    x: [T, K], or [w, T, K] of w ranks that share none.
    """
    if fmt.per == "group":
        return spread_groups(group_amax(x), x.shape[-1])
    if fmt.per == "token":
        return x.abs().amax(dim=-1, keepdim=True)
    assert fmt.per == "tensor", f"no activation scale per {fmt.per}"
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
    if fmt.per == "tensor":
        amax = w.abs().amax()
    elif fmt.per == "channel":
        amax = w.abs().amax(dim=1, keepdim=True)
    else:
        assert fmt.per == "block", f"no weight scale per {fmt.per}"
        down = torch.nn.functional.pad(w.abs(), (0, 0, 0, -w.shape[0] % BLOCK))
        strips = down.view(-1, BLOCK, w.shape[1]).amax(dim=1)  # amax over 128 rows
        amax = spread_groups(group_amax(strips), w.shape[1])
        amax = amax.repeat_interleave(BLOCK, dim=0)[: w.shape[0]]
    return scale_for(amax, fmt)
