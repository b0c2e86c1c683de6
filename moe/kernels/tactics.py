"""Name the tiles that the products of our kernels can have, so that a case can ask for each.

A plan picks the tile of a product from its shape and from the chip's shared memory, so that one
machine and a few shapes reach few of them. `m64n128k64` is the tile of 64 rows, 128 columns and
steps of 64: the same code with the same sizes on a chip, and in the interpreter, which would pick
another by itself. Torch-free: plans list the names.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from moe.formats import FORMATS
from moe.kernels.tiles import Tile, decoding_tile, gemm_tile, is_decoded
from moe.platforms import PLATFORMS, platform
from moe.spec import BLOCK, DTYPE_BYTES, reads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moe.formats.format import Format
    from moe.spec import LayerSpec

_ROWS = (16, 32, 64, 128)  # all that `block_rows` returns for a chip
_COLUMNS = (32, 64, 128)  # one for each block_n, which other widths share
_INNER = (BLOCK // 2, BLOCK)  # rows of weights that are, or are not, whole long steps


@reads("scheme", "dtype")
def names(layer_spec: LayerSpec) -> tuple[str, ...]:
    """Return the names of the tiles that some shape on some chip is given, smallest first.

    They belong to the number formats and the dtype of a layer, whatever its sizes.
    """
    return tuple(_tiles(layer_spec.scheme.weights, layer_spec.scheme.activations, layer_spec.dtype))


def forced_tile(layer_spec: LayerSpec, shared_bytes: int) -> Tile:
    """Return the tile of a layer's tactic, with the stages for which there is shared memory.

    Raises KeyError for the default, which picks a tile for each product.
    """
    scheme, dtype = layer_spec.scheme, layer_spec.dtype
    tile = _tiles(scheme.weights, scheme.activations, dtype)[layer_spec.tactic]
    size = _element_bytes(FORMATS[scheme.weights], FORMATS[scheme.activations], dtype)
    while tile.shared_bytes(size) > shared_bytes and tile.num_stages > 1:
        tile = replace(tile, num_stages=tile.num_stages - 1)
    return tile


@cache
def _tiles(weights: str, activations: str, dtype: str) -> dict[str, Tile]:
    """Return each tile that can be picked, by its name; of equal names the one with most stages."""
    w, x = FORMATS[weights], FORMATS[activations]
    tiles = _decoded() if is_decoded(w) else _multiplied(w, x, _element_bytes(w, x, dtype))
    ordered = sorted(tiles, key=lambda t: (t.block_m, t.block_n, t.block_k, t.num_stages))
    return {f"m{t.block_m}n{t.block_n}k{t.block_k}": t for t in ordered}


def _multiplied(w: Format, x: Format, element_bytes: int) -> Iterator[Tile]:
    """Yield the tiles of values, and of codes whose scales belong to 128 columns or more."""
    is_blocked = w.block == (BLOCK, BLOCK) or x.block == (1, BLOCK)
    for m, out, inner, limit in itertools.product(_ROWS, _COLUMNS, _INNER, _limits()):
        size = m, out, inner, element_bytes
        yield gemm_tile(*size, blocked=is_blocked, shared_bytes=limit)


def _decoded() -> Iterator[Tile]:
    """Yield the tiles of weights that are decoded, with one sum in a step or several."""
    for m, out, limit, has_sums in itertools.product(_ROWS, _COLUMNS, _limits(), (False, True)):
        yield decoding_tile(m, out, interpreted=False, shared_bytes=limit, has_sums=has_sums)


def _limits() -> list[int]:
    """Return the bytes of shared memory that a program may use, of each kind of chip, rising."""
    chips = [platform(name) for name in PLATFORMS.rows]
    return sorted({chip.shared_bytes for chip in chips if chip.shared_bytes is not None})


def _element_bytes(w: Format, x: Format, dtype: str) -> int:
    """Return the bytes of an element of the wider operand."""
    return DTYPE_BYTES[dtype] if "model" in (w.grid, x.grid) else 1
