"""Pad quantized weights with zeros, so that their sizes are what an experts backend needs.

Padding comes after the quantization and after the shard was taken, so it changes neither codes nor
scales: codes of zero are added, and the scales of added blocks are 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.byte_views import as_bytes
from moe.errors import MoEError

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.types import ExpertWeights

_ONE = {"f32": 1.0, "e8m0": 127, "e4m3": 0x38}  # the bits of 1 in each scale dtype; f32: its value


def pad_weights(weights: ExpertWeights, hidden: int, shard: int) -> ExpertWeights:
    """Return weights with zeros up to these sizes. Raises MoEError if blocks do not allow it.

    weights: w13 [e, 2n, K] ([e, n, K] if not gated), w2 [e, K, n]. hidden, shard: K and n of the
    result.
    """
    w13, w2 = weights.gate_up.shape, weights.down.shape
    rows, columns, n = w13[1], w13[2], w2[2]
    if (columns, n) == (hidden, shard):
        return weights
    halves = rows // n if n and n != shard else 1
    high = rows if n == shard else shard  # rows of a half
    _check(weights, halves, (n, shard), (columns, hidden))
    code = _code_of_zero(weights.format)
    changes = {"w13": _padded(weights.w13, halves, high, _packed(weights, hidden), code)}
    changes["w2"] = _padded(weights.w2, 1, hidden, _packed(weights, shard), code)
    for name in ("scale", "zero"):
        for matrix, parts, sizes in (("w13", halves, (high, hidden)), ("w2", 1, (hidden, shard))):
            values = getattr(weights, f"{matrix}_{name}")
            if values is not None:
                changes[f"{matrix}_{name}"] = _padded_blocks(
                    values, weights.format, parts, sizes, one=name == "scale"
                )
    return weights.replace(**changes, **_biases(weights, halves, high, hidden))


def _biases(weights: ExpertWeights, halves: int, high: int, hidden: int) -> dict[str, Tensor]:
    """Return padded biases by name: b13 with `high` elements of each half, b2 with `hidden`."""
    sizes = {"b13": (halves, high), "b2": (1, hidden)}
    biases = {name: getattr(weights, name) for name in sizes}
    return {
        name: _padded(bias.unsqueeze(2), *sizes[name], 1).flatten(1)
        for name, bias in biases.items()
        if bias is not None
    }


def _check(
    weights: ExpertWeights, halves: int, shard: tuple[int, int], hidden: tuple[int, int]
) -> None:
    """Raise MoEError for blocks that padding would tear apart. shard, hidden: (before, after)."""
    fmt = weights.format
    down, across = fmt.block or (None, None)
    if down is not None and halves > 1 and shard[0] % down:
        raise MoEError(
            f"w13 of a shard of {shard[0]} columns has a block of {down} rows of {fmt.name} scales "
            f"in gate and in up; it cannot be padded to {shard[1]}: choose a multiple of {down}"
        )
    if fmt.zero_point and across is not None:
        for noun, (size, padded) in (("shard", shard), ("hidden size", hidden)):
            if size % across and size != padded:
                raise MoEError(
                    f"a {noun} of {size} ends inside a group of {across} columns with a zero point "
                    f"of {fmt.name}; it cannot be padded to {padded}: choose a multiple of {across}"
                )


def _packed(weights: ExpertWeights, columns: int) -> int:
    return columns // weights.format.packing


def _code_of_zero(fmt: Format) -> int:
    """Return the byte of codes that are zero. A padded group with a zero point has 0 as its own."""
    if fmt.grid == "model" or fmt.zero_point:
        return 0
    codes = fmt.codec.encode(torch.zeros(1, fmt.packing))
    return int(codes.view(torch.uint8))


def _padded(w: Tensor, halves: int, rows: int, columns: int, filler: float = 0) -> Tensor:
    """Return w [e, halves * n, C], each half with `rows` rows, of `columns` elements.

    filler: the byte of what is added, or the number where w is wider.
    """
    raw = as_bytes(w)
    out = raw.new_full((len(w), halves, rows, columns), filler)
    if raw.numel():
        parts = raw.reshape(len(w), halves, -1, raw.shape[-1])
        out[:, :, : parts.shape[2], : parts.shape[3]] = parts
    return out.view(len(w), halves * rows, columns).view(w.dtype)


def _padded_blocks(
    values: Tensor, fmt: Format, halves: int, sizes: tuple[int, int], *, one: bool
) -> Tensor:
    """Return one number per block for a padded matrix. sizes: rows of a half, and columns."""
    down, across = fmt.block or (None, None)
    high = 1 if down is None else -(-sizes[0] // down)
    wide = 1 if across is None else -(-sizes[1] // across)
    matrices = values.unsqueeze(1) if down is None else values
    matrices = matrices.unsqueeze(2) if across is None else matrices
    filler = _ONE[fmt.scale_dtype] if one else 0
    padded = _padded(matrices, 1 if down is None else halves, high, wide, filler)
    padded = padded.squeeze(2) if across is None else padded
    return padded.squeeze(1) if down is None else padded
