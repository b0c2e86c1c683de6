"""What makes codes and reads them: a number format's member. The reference never imports it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Codec(ABC):
    """Codes of values that are divided by their scale already."""

    dtype: ClassVar[torch.dtype | None]  # of codes; None: the values' own

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """x: float32 multiples of a scale -> codes, to nearest, ties to even, saturating."""

    def decode(self, codes: Tensor) -> Tensor:
        """The codes as float32 numbers."""
        return codes.float()
