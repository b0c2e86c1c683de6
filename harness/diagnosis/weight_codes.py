"""Hold a matrix of weights as codes, scales and zero points, to make or read it otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.formats.format import Format


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A matrix [C, I] as codes. ratio: before rounding, of the codes' scale. scale, zero: of each
    element, [C, I]; 1 and 0 of a format without. fmt: None for weights in the layer's dtype.
    """

    ratio: Tensor
    codes: Tensor
    scale: Tensor
    zero: Tensor
    fmt: Format | None = None

    @property
    def values(self) -> Tensor:
        """Return [C, I], what the codes stand for."""
        return (self.codes - self.zero) * self.scale

    @property
    def is_quantized(self) -> bool:
        """Tell whether there are codes."""
        return self.fmt is not None


Reading = tuple[str, "Callable[[Codes], Codes | None]"]
# What is done otherwise, as the end of "the weights ...", and the codes that it gives; None for a
# matrix to which it does not apply


def changed(codes: Codes, what: str, value: Tensor) -> Codes | None:
    """Return the codes with one part changed; None if that is no change, or there are no scales."""
    is_there = what == "codes" or codes.is_quantized
    if not is_there or torch.equal(value, getattr(codes, what)):
        return None
    parts = {name: getattr(codes, name) for name in ("ratio", "codes", "scale", "zero")}
    return Codes(**{**parts, what: value}, fmt=codes.fmt)
