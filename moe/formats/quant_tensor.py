"""A quantized tensor: codes, scale and format together, and the values that they stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from moe.errors import MoEError
from moe.formats.model.spec import MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format


@dataclass(frozen=True, kw_only=True)
class QuantTensor:
    """codes: [*, R, C] values or codes. format: how to read them.

    scale: float32 multipliers that turn codes into values, None where the format has none; one
    for each of the format's blocks, [*, ceil(R/rows), ceil(C/columns)], sides of 1 left out or not.
    Raises MoEError for a scale without a format that has scales.
    """

    codes: Tensor
    scale: Tensor | None = None
    format: Format = MODEL

    def __post_init__(self) -> None:
        if self.scale is not None and self.format.block is None:
            rule = "say in which format the codes are, as the tensor that they came from does"
            raise MoEError(f"a scale, but format {self.format.name!r} has none; {rule}")

    def replace(self, **changes: Any) -> Self:
        return replace(self, **changes)

    def expert(self, e: int) -> QuantTensor:
        """The e-th matrix of some experts', [R, C]."""
        return self.replace(
            codes=self.codes[e], scale=None if self.scale is None else self.scale[e]
        )

    def check(self) -> None:
        """Raises MoEError where the scale is not one for each of the format's blocks."""
        if self.scale is not None:
            *lead, rows, columns = self.codes.shape
            wanted = (*lead, *self.format.blocks(rows, columns))
            if _sides(self.scale.shape) != _sides(wanted):
                shapes = f"shape {tuple(self.scale.shape)} of {tuple(self.codes.shape)}"
                rule = f"{self.format.name} has one for each of {list(wanted)} blocks"
                raise MoEError(f"scales of {shapes} codes: {rule}")


def _sides(shape: tuple[int, ...]) -> list[int]:
    """Without sides of length 1, which a scale's owner may leave out."""
    return [side for side in shape if side != 1]


def spread_scale(tensor: QuantTensor) -> Tensor:
    """The scale of each element, broadcastable to the codes."""
    assert tensor.scale is not None
    tensor.check()
    *lead, rows, columns = tensor.codes.shape
    scale = tensor.scale.reshape(*lead, *tensor.format.blocks(rows, columns))
    down, across = tensor.format.block or (None, None)
    if down is not None and down > 1:
        scale = scale.repeat_interleave(down, dim=-2)[..., :rows, :]
    if across is not None and across > 1:
        scale = scale.repeat_interleave(across, dim=-1)[..., :columns]
    return scale


def dequantize(tensor: QuantTensor) -> Tensor:
    """float32 values, as the format says; a scale's shape decides nothing."""
    values = tensor.format.codec.decode(tensor.codes)
    if tensor.scale is None:
        return values
    return values * spread_scale(tensor)
