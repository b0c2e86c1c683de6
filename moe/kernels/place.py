"""Find which tokens go to which rank, and the number of each among those that go there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from moe.errors import MoEError
from moe.kernels.arguments import check_ids
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import FEW, program_size, tile_length

if TYPE_CHECKING:
    from torch import Tensor


def place(topk_ids: Tensor, holders: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens go to each of S ranks, as numbers in their order, and how many do.

    topk_ids: [T, k] int32; -1 and ids that are not below E are held by nobody. holders: [S, E]
    uint8, 1 where a rank holds an expert. Returns [S, T] int32, the number of a token among those
    that go to the rank, -1 where it does not go; and [S] int32. A token goes to a rank once.
    """
    _check_holders(topk_ids, holders)
    ranks, (tokens, top_k) = len(holders), topk_ids.shape
    device = topk_ids.device
    position = torch.empty((ranks, tokens), dtype=torch.int32, device=device)
    counts = torch.empty(ranks, dtype=torch.int32, device=device)
    step = program_size(1024, 1 << 14, is_interpreted=INTERPRETED)
    launch(
        *(_place_tokens, (ranks,), device, topk_ids.contiguous(), holders.contiguous()),
        *(position, counts, tokens, holders.shape[1]),
        SLOTS=top_k,
        STEP=tile_length(tokens, step, few=FEW, is_interpreted=INTERPRETED),
    )
    return position, counts


def _check_holders(topk_ids: Tensor, holders: Tensor) -> None:
    check_ids("topk_ids", topk_ids)
    if topk_ids.ndim != 2:
        raise MoEError(f"topk_ids is {list(topk_ids.shape)}; it must be [T, k]")
    if holders.ndim != 2 or holders.dtype != torch.uint8:
        raise MoEError(
            f"holders is {list(holders.shape)} of {holders.dtype}; it must be [S, E] of "
            "torch.uint8, 1 where a rank holds an expert"
        )


@triton.jit(do_not_specialize=("tokens",))
def _place_tokens(
    ids_ptr, holders_ptr, position_ptr, count_ptr, tokens, experts,
    SLOTS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    rank = tl.program_id(0).to(tl.int64)
    count = tl.program_id(0) * 0
    for start in range(0, tokens, STEP):
        token = start + tl.arange(0, STEP).to(tl.int64)
        real = token < tokens
        goes = tl.zeros([STEP], tl.int32)
        for slot in range(SLOTS):
            expert = tl.load(ids_ptr + token * SLOTS + slot, mask=real, other=-1)
            known = (expert >= 0) & (expert < experts)
            is_held = tl.load(holders_ptr + rank * experts + expert, mask=known, other=0)
            goes = goes | is_held.to(tl.int32)
        number = tl.where(goes > 0, count + tl.cumsum(goes, 0) - goes, -1)
        tl.store(position_ptr + rank * tokens + token, number, mask=real)
        count += tl.sum(goes, 0)
    tl.store(count_ptr + rank, count)


def place_torch(topk_ids: Tensor, holders: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the result of `place` in torch."""
    _check_holders(topk_ids, holders)
    known = (topk_ids >= 0) & (topk_ids < holders.shape[1])
    is_held = holders.bool()[:, topk_ids.where(known, 0).long()] & known
    goes = is_held.any(dim=2).int()
    number = goes.cumsum(dim=1).int() - goes
    return torch.where(goes > 0, number, -1).int(), goes.sum(dim=1).int()
