"""Pack four-bit codes into bytes, the even column in the low half, and unpack them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError

if TYPE_CHECKING:
    from torch import Tensor


def pack(nibbles: Tensor) -> Tensor:
    """Return [..., C / 2] uint8 from [..., C] integers of 0 to 15.

    Raises MoEError for an odd number of columns.
    """
    if nibbles.shape[-1] % 2:
        raise MoEError(
            f"cannot pack {nibbles.shape[-1]} four-bit codes of a row into bytes: the number of "
            "columns must be even; pad the rows with zeros"
        )
    low, high = nibbles[..., 0::2].to(torch.uint8), nibbles[..., 1::2].to(torch.uint8)
    return low | (high << 4)


def unpack(codes: Tensor) -> Tensor:
    """Return [..., 2 * B] uint8, the nibbles of [..., B] uint8."""
    halves = torch.stack([codes & 15, codes >> 4], dim=-1)
    return halves.reshape(*codes.shape[:-1], 2 * codes.shape[-1])
