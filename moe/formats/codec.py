"""Define the base class of codecs, which encode and decode a number format.

The reference imports no codec.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Codec(ABC):
    """Convert between codes and multiples of a scale."""

    dtype: ClassVar[torch.dtype | None]  # of codes; None: that of the values

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Return the codes of x, rounded to nearest, ties to even, saturating.

        x: any shape, float32, already divided by the scale.
        """

    def decode(self, codes: Tensor) -> Tensor:
        """Return codes as float32 multiples of the scale."""
        return codes.float()
