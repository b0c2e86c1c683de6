"""Define a quantized tensor, which holds codes, scale and format together, and dequantize it."""

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
    """Hold codes, their scale and their format.

    codes: [*, R, C] values or codes. scale: float32, value = code * scale, one per block of the
    format, [*, ceil(R/rows), ceil(C/columns)], where sides of length 1 can be left out; None if the
    format has no scales. Raises MoEError for a scale with a format that has none.
    """

    codes: Tensor
    scale: Tensor | None = None
    format: Format = MODEL

    def __post_init__(self) -> None:
        if self.scale is not None and self.format.block is None:
            rule = "pass the format of the codes"
            raise MoEError(f"got a scale, but format {self.format.name!r} has no scales; {rule}")

    def replace(self, **changes: Any) -> Self:
        """Return a copy with these fields changed."""
        return replace(self, **changes)

    def expert(self, e: int) -> QuantTensor:
        """Return the matrix of expert e, [R, C], from a tensor [e, R, C]."""
        return self.replace(
            codes=self.codes[e], scale=None if self.scale is None else self.scale[e]
        )

    def check(self) -> None:
        """Raise MoEError if the scale does not have one number per block of the format."""
        if self.scale is not None:
            *lead, rows, columns = self.codes.shape
            expected = (*lead, *self.format.blocks(rows, columns))
            if _sides(self.scale.shape) != _sides(expected):
                shapes = f"shape {tuple(self.scale.shape)} of {tuple(self.codes.shape)}"
                rule = f"{self.format.name} has one for each of {list(expected)} blocks"
                raise MoEError(f"scales of {shapes} codes: {rule}")


def _sides(shape: tuple[int, ...]) -> list[int]:
    """Return the shape without sides of length 1, which a scale can leave out."""
    return [side for side in shape if side != 1]


def spread_scale(tensor: QuantTensor) -> Tensor:
    """Return the scale of each element, broadcastable to the codes."""
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
    """Return float32 values, read as the format declares; the scale's shape is not interpreted."""
    values = tensor.format.codec.decode(tensor.codes)
    if tensor.scale is None:
        return values
    return values * spread_scale(tensor)
