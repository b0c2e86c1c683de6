"""List other scales and zero points of a matrix: by another rule, or read in another order.

They are stored by output and group of inputs; kernels arrange them by steps, halves and groups.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.fit import grid_of
from harness.diagnosis.weight_codes import Codes, changed
from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from harness.diagnosis.weight_codes import Reading
    from moe.formats.format import Format

    Order = Callable[[Tensor], Tensor | None]

POWERS = (2.0, 0.5, 4.0, 0.25)
STEPS = (2, 4, 8, 16)  # groups of a step
SAME = 1e-6  # relative distance at which two factors are one
NEAR = 2.0**-6  # relative distance of a scale in 16 bits to what was rounded, at most
FILLERS = (1.0, 0.0)  # of groups beyond the last one, where a step is not full
NOUNS = {
    ("scale",): "scales",
    ("zero",): "zero points",
    ("scale", "zero"): "scales and zero points",
}


def readings(group: int | None) -> Iterator[Reading]:
    """Yield what is done otherwise, as the end of "the weights ...", and the codes it gives.

    group: columns that share a scale, if they are fewer than all.
    """
    yield from _of_other_size(group)
    for parts, noun in NOUNS.items():
        for text, order in _orders(group is not None):
            yield f"have {noun} that are {text}", _ordered(parts, group, order)


def _of_other_size(group: int | None) -> Iterator[Reading]:
    """Yield codes that are made with scales of another size, as of another largest code."""
    for power in POWERS:
        text = f"have scales that are {power:g} times as large, also where their codes were made"
        yield text, _made_with(group, _times(power))
    for text, top in TOPS.items():
        what = f"have scales by which the largest value is {text}, also where codes were made"
        yield what, _made_with(group, _of_top(top))


def _times(power: float) -> Callable[[Format], float]:
    return lambda _: power


def _of_top(top: Callable[[Format], float]) -> Callable[[Format], float]:
    """Return by which factor scales are larger if amax is divided by another number of codes."""

    def factor(fmt: Format) -> float:
        is_free = fmt.scale_dtype not in ("e8m0", "e4m3") and not fmt.zero_point
        other = top(fmt) if is_free else 0.0
        return (fmt.scale_top or fmt.top) / other if other > 0 else 1.0

    return factor


# What the largest value of a group may become, in codes
TOPS: dict[str, Callable[[Format], float]] = {
    "the largest code": lambda fmt: fmt.top,
    "one more than the largest code": lambda fmt: fmt.top + 1,
    "half a step more than the largest code": lambda fmt: fmt.top + 0.5,
    "one less than the largest code": lambda fmt: fmt.top - 1,
    "as far from 0 as the lowest code": lambda fmt: -fmt.lowest,
    "240, as in e4m3fnuz": lambda _: 240.0,
    "448, as in e4m3fn": lambda _: 448.0,
    "224": lambda _: 224.0,
}


def _made_with(
    group: int | None, factor: Callable[[Format], float]
) -> Callable[[Codes], Codes | None]:
    """Make the codes again, with scales that are multiplied by a factor of their format."""

    def read(codes: Codes) -> Codes | None:
        fmt = codes.fmt
        times = 1.0 if fmt is None else factor(fmt)
        if fmt is None or abs(times - 1) < SAME:
            return None
        scale = _larger(codes, group, fmt, times)
        ratio = _values(codes) / scale + codes.zero
        clamped = ratio.clamp(fmt.lowest, fmt.top)
        rounded = clamped.round() if fmt.zero_point else on_grid(clamped, fmt)
        return Codes(ratio=ratio, codes=rounded, scale=scale, zero=codes.zero, fmt=fmt)

    return read


def _larger(codes: Codes, group: int | None, fmt: Format, times: float) -> Tensor:
    """Return [O, I], the scales times a factor.

    Where they follow from the largest values, they are found from these: a value that is half a
    step from two codes goes to one or the other by the last bit of its scale.
    """
    larger, grid = codes.scale * times, grid_of(codes.scale)
    width = codes.scale.shape[1] if group is None else group
    is_exact = times in POWERS
    if not is_exact and codes.scale.shape[1] % width == 0:
        amax = _values(codes).abs().view(len(larger), -1, width).amax(dim=2)
        exact = (amax / ((fmt.scale_top or fmt.top) / times)).repeat_interleave(width, dim=1)
        larger = torch.where((exact - larger).abs() <= NEAR * larger, exact, larger)
    return larger if grid is None else on_grid(larger, grid)


def _values(codes: Codes) -> Tensor:
    """Return [O, I], what was quantized; in 16 bits, if it is so but for float32's noise."""
    values = (codes.ratio - codes.zero) * codes.scale
    for dtype in ("bf16", "fp16"):
        rounded = on_grid(values, dtype)
        if bool(((values - rounded).abs() <= SAME * values.abs()).all()):
            return rounded
    return values


def _orders(has_groups: bool) -> Iterator[tuple[str, Order]]:
    """Yield what other orders of values [O, G] are called, and the values in this order."""
    yield "interleaved, one of gate and one of up", lambda s: _of_halves(s, interleaved=True)
    text = "read as if one of gate and one of up were interleaved"
    yield text, lambda s: _of_halves(s, interleaved=False)
    if not has_groups:
        return
    yield "stored by group, and read by output", lambda s: s.mT.reshape(s.shape)
    yield "stored by output, and read by group", lambda s: s.reshape(s.shape[::-1]).mT
    for step, filler in itertools.product(STEPS, FILLERS):
        place = f"in each step of {step} groups"
        text = f"{place} stored by output, and read by group"
        yield text, functools.partial(_in_steps, step=step, filler=filler, by_output=True)
        text = f"{place} stored by group, and read by output"
        yield text, functools.partial(_in_steps, step=step, filler=filler, by_output=False)


def _of_halves(values: Tensor, *, interleaved: bool) -> Tensor | None:
    outputs, groups = values.shape
    if outputs % 2:
        return None
    shape = (2, outputs // 2, groups) if interleaved else (outputs // 2, 2, groups)
    return values.view(shape).transpose(0, 1).reshape(outputs, groups)


def _in_steps(values: Tensor, *, step: int, filler: float, by_output: bool) -> Tensor | None:
    """Return values [O, G] as read from steps [G / step, O, step] that are the other way round."""
    outputs, groups = values.shape
    if groups == step or groups == 1:
        return None
    padded = torch.nn.functional.pad(values, (0, -groups % step), value=filler)
    steps = padded.view(outputs, -1, step).transpose(0, 1)  # [s, O, step]
    other = steps.reshape(-1, step, outputs).mT
    read = other if by_output else steps.mT.reshape(-1, outputs, step)
    return read.transpose(0, 1).reshape(outputs, -1)[:, :groups]


def _ordered(
    parts: tuple[str, ...], group: int | None, order: Order
) -> Callable[[Codes], Codes | None]:
    """Read the scales or zero points of groups in another order."""

    def read(codes: Codes) -> Codes | None:
        outputs, inputs = codes.scale.shape
        rows = 1 if codes.fmt is None or codes.fmt.block is None else codes.fmt.block[0] or outputs
        width = inputs if group is None else group
        if inputs % width or outputs % rows:
            return None
        other: Codes | None = codes
        for part in parts:
            values: Tensor = getattr(codes, part)
            moved = order(values[::rows, ::width].contiguous())
            if moved is None or other is None:
                return None
            spread = moved.repeat_interleave(rows, dim=0).repeat_interleave(width, dim=1)
            other = changed(other, part, spread)
        return other

    return read
