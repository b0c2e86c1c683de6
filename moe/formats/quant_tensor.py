"""Define a quantized tensor, which holds codes, scale and format together, and dequantize it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch

from moe.errors import MoEError
from moe.formats.model.spec import MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format


SCALE_TORCH_DTYPE = {"f32": torch.float32, "e8m0": torch.uint8, "e4m3": torch.float8_e4m3fn}


@dataclass(frozen=True, kw_only=True)
class QuantTensor:
    """Hold codes, their scales and their format.

    codes: [*, R, C] values or codes; with packed codes [*, R, C / packing] uint8.
    scale: of the format's scale_dtype (e8m0 as uint8), one per block of the format, [*,
        ceil(R/rows), ceil(C/columns)], where sides of length 1 can be left out; None if the format
        has no scales. value = code * scale.
    global_scale: [*] float32, by which the scales of a whole matrix are divided, if the format has
        one: value = code * scale / global_scale.
    zero_point: uint8 code of 0 for each scale, if the format has one: value = (code - zero_point)
        * scale.

    Raises MoEError for a scale with a format that has none.
    """

    codes: Tensor
    scale: Tensor | None = None
    format: Format = MODEL
    global_scale: Tensor | None = None
    zero_point: Tensor | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and self.format.block is None:
            rule = "pass the format of the codes"
            raise MoEError(f"got a scale, but format {self.format.name!r} has no scales; {rule}")

    def replace(self, **changes: Any) -> Self:
        """Return a copy with these fields changed."""
        return replace(self, **changes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return [*, R, C], the shape of the values."""
        return (*self.codes.shape[:-1], self.codes.shape[-1] * self.format.packing)

    def expert(self, e: int) -> QuantTensor:
        """Return the matrix of expert e, [R, C], from a tensor [e, R, C]."""
        names = ("codes", "scale", "global_scale", "zero_point")
        parts = {name: getattr(self, name) for name in names}
        return self.replace(**{n: None if t is None else t[e] for n, t in parts.items()})

    def check(self) -> None:
        """Raise MoEError for codes, scales or zero points that do not belong to the format."""
        dtype = self.format.codec.dtype
        if dtype is not None and self.codes.dtype != dtype:
            rule = f"{self.format.name} has codes of {dtype}: pass what the quantizer returned"
            raise MoEError(f"codes of dtype {self.codes.dtype}; {rule}")
        self.check_scales()

    def check_scales(self) -> None:
        """Raise MoEError for scales or zero points that do not belong to the format and codes."""
        if self.format.block is None:
            return
        if self.scale is None:
            rule = "needs a scale, and it is None: pass what the quantizer returned"
            raise MoEError(f"format {self.format.name!r} {rule}")
        fmt, (*lead, rows, columns) = self.format, self.shape
        _check_blocks("scales", self.scale, self)
        dtype = SCALE_TORCH_DTYPE[fmt.scale_dtype]
        if self.scale.dtype != dtype:
            rule = f"{fmt.name} has {fmt.scale_dtype} scales; pass a tensor of dtype {dtype}"
            raise MoEError(f"scales of dtype {self.scale.dtype} for {rule}")
        if (self.zero_point is not None) != fmt.zero_point:
            has = "needs zero_point, and it is None" if fmt.zero_point else "has no zero points"
            raise MoEError(f"format {fmt.name!r} {has}: pass what the quantizer returned")
        if self.zero_point is not None:
            _check_blocks("zero points", self.zero_point, self)
            if self.zero_point.dtype != torch.uint8:
                raise MoEError(
                    f"zero points of dtype {self.zero_point.dtype} for {fmt.name}, which has them "
                    "as torch.uint8: pass what the quantizer returned"
                )
        if (self.global_scale is not None) != fmt.global_scale:
            has = "needs global_scale, and it is None" if fmt.global_scale else "has no such scale"
            raise MoEError(f"format {fmt.name!r} {has}: pass what the quantizer returned")
        if self.global_scale is not None and self.global_scale.numel() not in (1, math.prod(lead)):
            shapes = f"global_scale of shape {tuple(self.global_scale.shape)}"
            rule = f"one per matrix of {[*lead, rows, columns]}, or one for all of them, is needed"
            raise MoEError(f"{shapes}: {rule}")
        if self.global_scale is not None and self.global_scale.dtype != torch.float32:
            rule = f"{fmt.name} has it in float32: pass what the quantizer returned"
            raise MoEError(f"global_scale of dtype {self.global_scale.dtype}; {rule}")

    @property
    def block_scale(self) -> Tensor | None:
        """Return float32 values per code, of the scale's shape; None without a scale."""
        if self.scale is None or self.format.scale_dtype == "f32":
            return self.scale
        if self.format.scale_dtype == "e8m0":
            return _powers_of_two(self.scale)
        assert self.global_scale is not None, f"{self.format.name} needs a global scale"
        scale = self.scale.float()
        lead = self.global_scale
        return scale / lead.reshape(*lead.shape, *[1] * (scale.dim() - lead.dim()))


def _check_blocks(noun: str, numbers: Tensor, tensor: QuantTensor) -> None:
    """Raise MoEError unless there is one of the numbers per block of the format."""
    *lead, rows, columns = tensor.shape
    expected = (*lead, *tensor.format.blocks(rows, columns))
    if _sides(numbers.shape) != _sides(expected):
        shapes = f"shape {tuple(numbers.shape)} of {tuple(tensor.codes.shape)}"
        rule = f"{tensor.format.name} has one for each of {list(expected)} blocks"
        raise MoEError(f"{noun} of {shapes} codes: {rule}")


def _powers_of_two(exponents: Tensor) -> Tensor:
    """Return float32 2**(e - 127) from uint8 e; 255 is NaN, 0 the subnormal 2**-127."""
    bits = torch.where(exponents == 0, 0x0040_0000, exponents.int() << 23)
    return torch.where(exponents == 255, 0x7FC0_0000, bits).int().view(torch.float32)


def _sides(shape: tuple[int, ...]) -> list[int]:
    """Return the shape without sides of length 1, which a scale can leave out."""
    return [side for side in shape if side != 1]


def spread_scale(tensor: QuantTensor) -> Tensor:
    """Return the float32 scale of each element, broadcastable to the values."""
    tensor.check_scales()
    scale = tensor.block_scale
    assert scale is not None
    return spread_blocks(tensor, scale)


def spread_blocks(tensor: QuantTensor, numbers: Tensor) -> Tensor:
    """Return one number per block, such as a scale, for each element, broadcastable to them."""
    *lead, rows, columns = tensor.shape
    spread = numbers.reshape(*lead, *tensor.format.blocks(rows, columns))
    down, across = tensor.format.block or (None, None)
    if down is not None and down > 1:
        spread = spread.repeat_interleave(down, dim=-2)[..., :rows, :]
    if across is not None and across > 1:
        spread = spread.repeat_interleave(across, dim=-1)[..., :columns]
    return spread


def dequantize(tensor: QuantTensor) -> Tensor:
    """Return float32 values, read as the format declares; the scale's shape is not interpreted."""
    tensor.check()
    values = tensor.format.codec.decode(tensor.codes)
    if tensor.format.block is None:
        return values
    scale = spread_scale(tensor)
    if tensor.zero_point is not None:
        values = values - spread_blocks(tensor, tensor.zero_point.float())
    return values * scale
