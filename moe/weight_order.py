"""Convert the rows of w13 between [gate; up] and the interleaved order of some checkpoints.

Interleaved, row 2i is row i of gate and row 2i + 1 is row i of up. The layer is the same; only the
order of rows differs, in weights, biases and scales alike. Everything here is [gate; up], so a
checkpoint is converted once, with `from_interleaved`, and a backend whose kernels need interleaved
rows converts in its `prepare_weights`, with `to_interleaved`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.byte_views import as_bytes
from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.types import ExpertWeights

_BY_ROW = ("w13", "b13", "w13_scale", "w13_zero")  # tensors with one entry for each row of w13


def from_interleaved(weights: ExpertWeights) -> ExpertWeights:
    """Return weights in [gate; up] order. weights: w13, its bias and scales interleaved.

    Raises MoEError for an odd number of rows and for scales that several rows share.
    """
    return _reordered(weights, _joined)


def to_interleaved(weights: ExpertWeights) -> ExpertWeights:
    """Return weights with interleaved rows of w13. weights: in [gate; up] order.

    Raises MoEError as `from_interleaved` does.
    """
    return _reordered(weights, _alternating)


def _reordered(weights: ExpertWeights, order: Callable[[Tensor], Tensor]) -> ExpertWeights:
    rows = weights.w13.shape[1]
    if rows % 2:
        raise MoEError(
            f"w13 has {rows} rows, which is odd, so they are not of gate and up; an activation "
            "without a gate has nothing to interleave"
        )
    side = (weights.format.block or (None, None))[0]
    if side is not None and side > 1:
        raise MoEError(
            f"format {weights.format.name!r} has one scale for {side} rows, which would mix gate "
            "and up; interleave unquantized weights, or choose a format with a scale for each row"
        )
    present = {name: getattr(weights, name) for name in _BY_ROW}
    return weights.replace(
        **{
            name: order(t)
            for name, t in present.items()
            if t is not None and t.ndim > 1 and t.shape[1] == rows
        }
    )


def _joined(t: Tensor) -> Tensor:
    """Return rows 0, 2, 4, ... and then 1, 3, 5, ... of t [e, 2n, ...]."""
    return _rows(t, torch.cat([torch.arange(t.shape[1])[half::2] for half in (0, 1)]))


def _alternating(t: Tensor) -> Tensor:
    """Return rows 0, n, 1, n + 1, ... of t [e, 2n, ...]."""
    return _rows(t, torch.arange(t.shape[1]).view(2, -1).T.flatten())


def _rows(t: Tensor, index: Tensor) -> Tensor:
    """Return rows of t [e, R, ...]; as bytes where its elements are: not all devices index fp8."""
    raw = as_bytes(t)
    return raw[:, index.to(t.device)].view(t.dtype)
