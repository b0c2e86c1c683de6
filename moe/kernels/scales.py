"""Which scale format a tensor of scales is in, told by its shape, and its plain expansion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.errors import MoEError
from moe.spec import BLOCK

if TYPE_CHECKING:
    from torch import Tensor


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def x_kind_of(scale: Tensor | None, x: Tensor) -> str:
    """none | tensor [] | token [S, 1] | group [S, ceil(in/128)] of rows x: [S, in].

    Raises MoEError for any other shape.
    """
    if scale is None:
        return "none"
    rows, inner = x.shape
    shape = tuple(scale.shape)
    kinds = {
        (rows, _blocks(inner)): "group",
        (rows, 1): "token",  # the same thing where there is a single group
        (): "tensor",
    }
    if shape not in kinds:
        raise MoEError(f"an activation scale of shape {shape} fits no rows of {tuple(x.shape)}")
    return kinds[shape]


def w_kind_of(scale: Tensor | None, w: Tensor) -> str:
    """none | tensor [e] | channel [e, out] | block [e, ceil(out/128), ceil(in/128)].

    w: [e, out, in]. Raises MoEError for any other shape.
    """
    if scale is None:
        return "none"
    experts, out, inner = w.shape
    shape = tuple(scale.shape)
    kinds = {
        (experts, _blocks(out), _blocks(inner)): "block",
        (experts, out): "channel",
        (experts,): "tensor",
    }
    if shape not in kinds:
        raise MoEError(f"a weight scale of shape {shape} fits no weights of {tuple(w.shape)}")
    return kinds[shape]


def spread_rows(scale: Tensor, kind: str, inner: int) -> Tensor:
    """An activation scale of `kind`, broadcastable to [S, inner]."""
    return scale.repeat_interleave(BLOCK, dim=1)[:, :inner] if kind == "group" else scale


def spread_weight(scale: Tensor, kind: str, matrix: Tensor) -> Tensor:
    """One expert's weight scale of `kind`, broadcastable to the matrix [out, in]."""
    if kind == "block":
        tall = scale.repeat_interleave(BLOCK, dim=0)[: matrix.shape[0]]
        return tall.repeat_interleave(BLOCK, dim=1)[:, : matrix.shape[1]]
    return scale[:, None] if kind == "channel" else scale
