"""List other ways to read rows of activations: other columns, other scales, other strides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.weight_readings import ORDERS
from moe.formats import FORMATS
from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

STRIDES = (16, 32, 64, 128, 256)  # of which a row's length may be rounded up to a multiple
NARROW = ("bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Values:
    """Rows of activations. codes, scale: [S, I] float32. group: columns that share a scale.

    group is None where a row has one scale, or none.
    """

    codes: Tensor
    scale: Tensor
    group: int | None = None

    @property
    def values(self) -> Tensor:
        """Return [S, I], what the codes stand for."""
        return self.codes * self.scale

    @property
    def has_row_scales(self) -> bool:
        """Tell whether rows have different scales."""
        known = self.scale[self.scale.isfinite().all(dim=1)]
        return len(known) > 1 and not bool((known == known[:1]).all())


def readings(inputs: Values, own: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield "its own row ..." in words and the values [R, I] that it gives. own: [R] int64."""
    codes, scale = inputs.codes[own], inputs.scale[own]
    values = codes * scale
    yield from _of_columns(codes, scale)
    if inputs.group is not None and inputs.group < codes.shape[1]:
        yield from _of_groups(inputs, own, inputs.group)
    if not bool((scale == 1).all()):
        yield "its own codes, without their scales", codes
        yield "its own codes, multiplied twice by their scales", values * scale
    for dtype in NARROW:
        yield f"its own row, rounded to {dtype}", on_grid(values, dtype)
    yield "its own row, rounded to e4m3", on_grid(values.clamp(-448, 448), FORMATS["fp8_tensor"])
    yield from _of_strides(inputs.values, own)


def _of_columns(codes: Tensor, scale: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield other columns of the codes, which keep their scales, and of both."""
    columns = torch.arange(codes.shape[1], device=codes.device)
    moved = {f"permuted, {text}": _permuted(columns, order) for text, order in ORDERS.items()}
    moved |= {
        "one column to the right, in a circle": columns.roll(1),
        "one column to the left, in a circle": columns.roll(-1),
        "in reverse order": columns.flip(0),
        "with the halves exchanged": columns.roll(len(columns) // 2),
    }
    for text, at in moved.items():
        if at is not None:
            yield f"its own row with the columns {text}", (codes * scale)[:, at]
            if not bool((scale[:, at] == scale).all()):
                yield (
                    f"its own row with the codes {text}, and not their scales",
                    (codes[:, at] * scale),
                )


def _permuted(columns: Tensor, order: tuple[int, ...]) -> Tensor | None:
    if len(columns) % len(order):
        return None
    return columns.view(-1, len(order))[:, torch.tensor(order, device=columns.device)].flatten()


def _of_groups(inputs: Values, own: Tensor, group: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the codes with the scales of other groups of columns."""
    codes, by_group = inputs.codes[own], inputs.scale[:, ::group]
    for text, scales in (*other_groups(by_group), *other_places(by_group)):
        spread = scales[own].repeat_interleave(group, dim=1)[:, : codes.shape[1]]
        yield f"its own codes, with the scales of {text}", codes * spread
    width = by_group.shape[1]
    tiled = by_group[own].repeat(1, group)[:, : codes.shape[1]]
    if width > 1:
        yield f"its own codes, column c with the scale c % {width}, not c // {group}", codes * tiled


def other_groups(scales: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the scales [S, g] of other groups of the same row for each, in words."""
    if scales.shape[1] < 2:
        return
    yield "the group before each, in a circle", scales.roll(1, 1)
    yield "the group after each, in a circle", scales.roll(-1, 1)
    yield "the groups in reverse order", scales.flip(1)
    yield "the first group", scales[:, :1].expand_as(scales)
    yield "the last group", scales[:, -1:].expand_as(scales)


def other_places(scales: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the scales that other numbers than row * groups + group lead to, [S, g], in words."""
    rows, count = scales.shape
    if count < 2:
        return
    flat = torch.nn.functional.pad(scales.flatten(), (0, 1), value=torch.nan)
    row = torch.arange(rows, device=scales.device)[:, None]
    group = torch.arange(count, device=scales.device)
    for text, at in (
        ("group * rows + row", group * rows + row),
        ("row + groups * group", row + count * group),
        ("row + group", row + group),
    ):
        yield f"the number {text}, not row * groups + group", flat[at.clamp(max=rows * count)]
    text = "the number row * groups + group, where that of group * rows + row is stored"
    yield text, scales.T.reshape(rows, count)


def _of_strides(values: Tensor, own: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield rows that are read as if they lay farther apart; NaN beyond the last one."""
    count, width = values.shape
    flat = torch.nn.functional.pad(values.flatten(), (0, 1), value=torch.nan)
    columns = torch.arange(width, device=values.device)
    strides = {-(-width // unit) * unit for unit in STRIDES} | {1 << (width - 1).bit_length()}
    for stride in sorted(strides - {width}):
        at = (own[:, None] * stride + columns).clamp(max=count * width)
        yield f"rows that are read {stride} elements apart, not {width}", flat[at]
