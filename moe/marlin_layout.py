"""Convert weights of few bits to the tiles that Marlin's kernels read, and back.

A tile has 16 input columns and 64 output rows of a matrix [O, I], and lies in the order in which
the threads of a warp need its codes: each reads eight (or four) codes as one integer. Scales and
zero points are ordered likewise. Nothing is rounded, so that each inverse gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError
from moe.formats.nibbles import pack, unpack

if TYPE_CHECKING:
    from torch import Tensor

TILE = (16, 64)  # input columns, output rows
# An output row is 64 t + 16 j + 8 h + c, an input column 16 s + 8 a + 2 q + b. The order of these
# axes in a matrix, and in its tiles, by bits of a code; all but t and s are of these lengths.
_MATRIX = "tjhcsaqb"
_TILED = {4: "stcqjbha", 8: "stcqjhba"}
_LENGTHS = {"j": 4, "h": 2, "c": 8, "a": 2, "q": 4, "b": 2}
_INTERLEAVED = [0, 2, 4, 6, 1, 3, 5, 7]  # zero points of one integer


def tiled(codes: Tensor, bits: int) -> Tensor:
    """Return [e, I / 16, O * bits / 2] int32 of codes [e, O, I] uint8, each below 2**bits.

    Raises MoEError for sizes that are not whole tiles.
    """
    _check_tiles(codes)
    experts, outputs, inputs = codes.shape
    lengths = _LENGTHS | {"t": outputs // TILE[1], "s": inputs // TILE[0]}
    axes = codes.reshape(experts, *(lengths[axis] for axis in _MATRIX))
    rows = axes.permute(0, *(1 + _MATRIX.index(axis) for axis in _TILED[bits]))
    return _packed(rows.reshape(experts, lengths["s"], -1), bits)


def untiled(tiles: Tensor, bits: int) -> Tensor:
    """Return the codes [e, O, I] uint8 of `tiled`."""
    rows = _unpacked(tiles, bits)
    lengths = _LENGTHS | {"t": rows.shape[2] // (TILE[0] * TILE[1]), "s": rows.shape[1]}
    axes = rows.reshape(len(rows), *(lengths[axis] for axis in _TILED[bits]))
    plain = axes.permute(0, *(1 + _TILED[bits].index(axis) for axis in _MATRIX))
    return plain.reshape(len(rows), lengths["t"] * TILE[1], lengths["s"] * TILE[0])


def scales_by_group(scales: Tensor) -> Tensor:
    """Return [e, G, O] of scales [e, O, G]: of each 64 rows, 8 i + j comes from row i + 8 j.

    G is at least 2: Marlin reads the only scale of a row in another order.
    """
    by_group = scales.transpose(1, 2).contiguous()
    eights = by_group.reshape(*by_group.shape[:2], -1, 8, 8)
    return eights.transpose(-2, -1).reshape(by_group.shape).contiguous()


def scales_by_row(scales: Tensor) -> Tensor:
    """Return [e, O, G], the inverse of `scales_by_group`."""
    eights = scales.reshape(*scales.shape[:2], -1, 8, 8)
    return eights.transpose(-2, -1).reshape(scales.shape).transpose(1, 2).contiguous()


def powers_by_group(exponents: Tensor) -> Tensor:
    """Return e8m0 scales [e, O, G] uint8 as [e, G, O], in the order of 16-bit activations.

    Of each four of `scales_by_group`, the second and third change places: its own inverse.
    """
    return _middle_swapped(scales_by_group(exponents))


def powers_by_row(exponents: Tensor) -> Tensor:
    """Return [e, O, G], the inverse of `powers_by_group`."""
    return scales_by_row(_middle_swapped(exponents))


def zero_points_by_group(zeros: Tensor) -> Tensor:
    """Return [e, G, O / 8] int32 of four-bit zero points [e, O, G] uint8."""
    by_group = scales_by_group(zeros)
    eights = by_group.reshape(*by_group.shape[:2], -1, 8)[..., _INTERLEAVED]
    return _packed(eights.reshape(by_group.shape), 4)


def zero_points_by_row(packed: Tensor) -> Tensor:
    """Return [e, O, G] uint8, the inverse of `zero_points_by_group`."""
    rows = _unpacked(packed, 4)
    back = [_INTERLEAVED.index(place) for place in range(8)]
    eights = rows.reshape(*rows.shape[:2], -1, 8)[..., back]
    return scales_by_row(eights.reshape(rows.shape))


def _middle_swapped(scales: Tensor) -> Tensor:
    fours = scales.reshape(*scales.shape[:2], -1, 4)[..., [0, 2, 1, 3]]
    return fours.reshape(scales.shape).contiguous()


def _packed(rows: Tensor, bits: int) -> Tensor:
    """Return int32 of codes along the last axis, the first one in the low bits."""
    codes = rows.to(torch.uint8)
    return (pack(codes) if bits == 4 else codes.contiguous()).view(torch.int32)


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    rows = packed.contiguous().view(torch.uint8)
    return unpack(rows) if bits == 4 else rows


def _check_tiles(codes: Tensor) -> None:
    columns, rows = TILE
    if codes.shape[1] % rows or codes.shape[2] % columns:
        raise MoEError(
            f"codes of shape {list(codes.shape)} do not consist of tiles of {rows} rows and "
            f"{columns} columns; pad them, or choose another backend"
        )
