"""Sum the weighted outputs of a token's experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels import rounding
from moe.kernels.arguments import check_floats, check_ids, check_matrix
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import program_columns, program_rows, program_size

if TYPE_CHECKING:
    from torch import Tensor


def _tile() -> int:
    """Return the elements of the output that one program handles."""
    return program_size(2048, 1 << 17, is_interpreted=INTERPRETED)


def combine(
    y: Tensor, topk_weights: Tensor, topk_ids: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Return [T, K], the sum over slots of weight * row, in float32 in slot order, rounded once.

    y: [T * k, K] expert outputs by (token, slot). topk_weights: [T, k] float32. topk_ids: [T, k]
    int32; slots with a negative id are skipped and their rows not read. A token with only such
    slots gets zeros. dtype: of the output; None: that of y.

    Raises MoEError for shapes that do not fit each other.
    """
    _check(y, topk_weights, topk_ids)
    tokens, top_k = topk_ids.shape
    hidden = y.shape[1]
    out = guarded_buffers.empty((tokens, hidden), dtype=dtype or y.dtype, device=y.device)
    tile_columns = program_columns(hidden)
    tile_rows = program_rows(tokens, tile_columns, _tile(), is_interpreted=INTERPRETED)
    launch(
        *(_combine, (triton.cdiv(tokens, tile_rows), triton.cdiv(hidden, tile_columns)), y.device),
        *(y.contiguous(), topk_weights.contiguous(), topk_ids.contiguous(), out, tokens, hidden),
        SLOTS=top_k,
        ROWS=tile_rows,
        WIDE=tile_columns,
    )
    return out


def _check(y: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> None:
    """Raise MoEError unless there is a weight and a row of y for each slot."""
    check_matrix("y", y)
    check_floats("topk_weights", topk_weights)
    check_ids("topk_ids", topk_ids)
    shapes = [list(t.shape) for t in (y, topk_weights, topk_ids)]
    if topk_ids.ndim != 2 or shapes[1] != shapes[2] or len(y) != topk_ids.numel():
        raise MoEError(
            f"y is {shapes[0]}, topk_weights {shapes[1]} and topk_ids {shapes[2]}; they must be "
            "[T * k, K] and twice [T, k]"
        )


@triton.jit(do_not_specialize=("tokens",))
def _combine(
    y_ptr, weight_ptr, ids_ptr, out_ptr, tokens, hidden,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    real = token < tokens
    inside = (column < hidden)[None, :]
    total = tl.zeros([ROWS, WIDE], tl.float32)
    for slot in range(SLOTS):
        row = token * SLOTS + slot
        used = tl.load(ids_ptr + row, mask=real, other=-1) >= 0
        weight = tl.load(weight_ptr + row, mask=used, other=0.0)
        at = row[:, None] * hidden + column[None, :]
        y = tl.load(y_ptr + at, mask=used[:, None] & inside, other=0.0).to(tl.float32)
        total += weight[:, None] * y
    value = rounding.to_model_dtype(total, out_ptr.dtype.element_ty)
    tl.store(
        out_ptr + token[:, None] * hidden + column[None, :], value, mask=real[:, None] & inside
    )


def combine_torch(
    y: Tensor, topk_weights: Tensor, topk_ids: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Compute the result of `combine` in torch."""
    _check(y, topk_weights, topk_ids)
    tokens, top_k = topk_ids.shape
    rows = y.view(tokens, top_k, y.shape[1])
    total = torch.zeros((tokens, y.shape[1]), dtype=torch.float32, device=y.device)
    for slot in range(top_k):
        used = topk_ids[:, slot] >= 0
        total[used] += topk_weights[used, slot, None] * rows[used, slot].float()
    return total.to(dtype or y.dtype)
