"""Convert weights to the orders and memory layouts that released kernels read, and back.

Each conversion moves elements and changes none, so that its inverse gives the same bits. The last
two dimensions of a weight are [rows, columns]: output channels and inner elements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.byte_views import as_bytes
from moe.errors import MoEError

if TYPE_CHECKING:
    from torch import Tensor

_SHUFFLED_ROWS = 32  # rows that `shuffled_rows` permutes among themselves
_SHUFFLE = (4, 8)  # as a table of 8 rows of 4, read by columns
_TILE_ROWS, _TILE_GROUPS = 128, 4  # of a tile of scales
_TILE_BYTES = 16  # of a row that `tiled` keeps together


def halves_swapped(w13: Tensor) -> Tensor:
    """Return [gate; up] as [up; gate], or the reverse: its own inverse. w13: [*, 2n, C]."""
    _check_rows(w13, 2, "two halves")
    first, second = w13.chunk(2, dim=-2)
    return torch.cat((second, first), dim=-2)


def interleaved(w13: Tensor) -> Tensor:
    """Return rows [r0, rn, r1, r(n+1), ...] of w13 [*, 2n, C], from two halves."""
    _check_rows(w13, 2, "two halves")
    first, second = w13.chunk(2, dim=-2)
    return torch.stack((first, second), dim=-2).flatten(-3, -2)


def deinterleaved(w13: Tensor) -> Tensor:
    """Return the inverse of `interleaved`."""
    _check_rows(w13, 2, "pairs")
    return torch.cat((w13[..., 0::2, :], w13[..., 1::2, :]), dim=-2)


def shuffled_rows(w: Tensor) -> Tensor:
    """Return rows as the epilogue of TensorRT-LLM's kernels with tiles of 128 rows expects them.

    Row 4 i + j of each 32 goes to place 8 j + i. w: [*, R, C], R a multiple of 32.
    """
    _check_rows(w, _SHUFFLED_ROWS, "groups of 32 rows")
    across, down = _SHUFFLE
    grouped = w.reshape(*w.shape[:-2], -1, down, across, w.shape[-1])
    return grouped.transpose(-3, -2).reshape(w.shape)


def unshuffled_rows(w: Tensor) -> Tensor:
    """Return the inverse of `shuffled_rows`."""
    _check_rows(w, _SHUFFLED_ROWS, "groups of 32 rows")
    grouped = w.reshape(*w.shape[:-2], -1, *_SHUFFLE, w.shape[-1])
    return grouped.transpose(-3, -2).reshape(w.shape)


def block_major(w: Tensor, block: int) -> Tensor:
    """Return [*, C / block, R, block]: blocks of columns outermost. w: [*, R, C]."""
    _check_columns(w, block)
    blocks = w.reshape(*w.shape[:-1], -1, block)
    return blocks.transpose(-3, -2).contiguous()


def row_major(w: Tensor) -> Tensor:
    """Return the inverse of `block_major`, [*, R, C], of w: [*, C / block, R, block]."""
    return w.transpose(-3, -2).flatten(-2)


def tiled(w: Tensor, rows: int = 16) -> Tensor:
    """Return w in the order of AITER's tiles, in the same shape.

    A tile has `rows` rows of 2 * `rows` elements; in it the 16-byte pieces of all rows come one
    column of pieces after another. w: [*, R, C], multiples of a tile's sides.
    """
    pieces = _tile_view(w, rows)
    return pieces.permute(0, 1, 3, 4, 2, 5).reshape(w.shape)


def untiled(w: Tensor, rows: int = 16) -> Tensor:
    """Return the inverse of `tiled`."""
    lead, down, height, across, pieces, width = _tile_view(w, rows).shape
    flat = w.reshape(lead, down, across, pieces, height, width)
    return flat.permute(0, 1, 4, 2, 3, 5).reshape(w.shape)


def _tile_view(w: Tensor, rows: int) -> Tensor:
    """Return w as [lead, R / rows, rows, C / tile, pieces of a tile, elements of a piece]."""
    piece = _TILE_BYTES // w.element_size()
    columns = 2 * rows
    _check_rows(w, rows, f"tiles of {rows} rows")
    _check_columns(w, columns)
    down, across = w.shape[-2] // rows, w.shape[-1] // columns
    return w.reshape(-1, down, rows, across, columns // piece, piece)


def scales_by_tile(scales: Tensor) -> Tensor:
    """Return scales [e, R, G] in tiles of 128 rows and 4 groups, as fp4 units of Blackwell read.

    In a tile, row 32 i + j and group g go to place 16 j + 4 i + g. Rows and groups are padded with
    zeros to whole tiles: [e, R', G'].
    """
    experts, rows, groups = scales.shape
    padding = (0, -groups % _TILE_GROUPS, 0, -rows % _TILE_ROWS)
    padded = torch.nn.functional.pad(as_bytes(scales), padding)
    tiles = padded.reshape(experts, -1, 4, _TILE_ROWS // 4, padded.shape[2] // 4, _TILE_GROUPS)
    moved = tiles.permute(0, 1, 4, 3, 2, 5).reshape(padded.shape)
    return moved.contiguous().view(scales.dtype)


def scales_by_row(tiles: Tensor, rows: int, groups: int) -> Tensor:
    """Return the scales [e, rows, groups] of `scales_by_tile`."""
    experts, padded_rows, padded_groups = tiles.shape
    shape = (experts, padded_rows // _TILE_ROWS, padded_groups // 4, _TILE_ROWS // 4, 4, 4)
    plain = as_bytes(tiles).reshape(shape).permute(0, 1, 4, 3, 2, 5).reshape(tiles.shape)
    return plain[:, :rows, :groups].contiguous().view(tiles.dtype)


def scales_by_four(scales: Tensor) -> Tensor:
    """Return scales [e, R, G] as [e, G / 4, R * 4]: four groups of all rows after each other."""
    _check_columns(scales, _TILE_GROUPS)
    return block_major(scales, _TILE_GROUPS).flatten(-2)


def scales_from_fours(fours: Tensor) -> Tensor:
    """Return the inverse of `scales_by_four`."""
    return row_major(fours.reshape(*fours.shape[:-1], -1, _TILE_GROUPS))


def packed_routing(topk_ids: Tensor, topk_weights: Tensor) -> Tensor:
    """Return id * 2**16 + the bits of the weight in bf16, [T, k] int32.

    topk_ids: [T, k], from 0 to 32767. topk_weights: [T, k] float32.
    """
    bits = topk_weights.to(torch.bfloat16).view(torch.int16).to(torch.int32) & 0xFFFF
    return (topk_ids.to(torch.int32) << 16) | bits


def unpacked_routing(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return ids [T, k] int32 and weights [T, k] bf16 of `packed_routing`."""
    bits = (packed & 0xFFFF).to(torch.int32)
    signed = torch.where(bits >= 1 << 15, bits - (1 << 16), bits).to(torch.int16)
    return packed >> 16, signed.view(torch.bfloat16)


def _check_rows(w: Tensor, multiple: int, what: str) -> None:
    if w.shape[-2] % multiple:
        raise MoEError(
            f"weights of shape {list(w.shape)} do not consist of {what}: the number of rows must "
            f"be a multiple of {multiple}; pad them, or choose another backend"
        )


def _check_columns(w: Tensor, multiple: int) -> None:
    if w.shape[-1] % multiple:
        raise MoEError(
            f"weights of shape {list(w.shape)} do not consist of blocks of {multiple} columns; pad "
            "them, or choose another backend"
        )
