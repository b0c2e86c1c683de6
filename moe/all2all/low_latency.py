"""Share what DeepEP's and NIXL's low-latency kernels have in common.

Each local expert has a block with room for the tokens of all ranks. In a block the rows of a sender
follow each other, and the kernel tells where they begin and which token each of them is, but not
which of the token's slots: that is found in the ids of all ranks, which are gathered beside it. The
kernel weighs the outputs that come back and adds them in float32.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from moe.all2all.group_ids import ids_of_all, starts_of
from moe.all2all.package_member import PackageMember, room_for, sent_weights
from moe.all2all.sizes import exchange
from moe.types import Dispatched, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.all2all.group_ids import GroupIds
    from moe.types import Activations

_COUNT_BITS = 32  # of a packed number, which has a count below a first row


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Hold what `finalize` needs. numbers: [T, k] int64. weights: [T, k] float32."""

    buffer: Any
    handle: tuple[Any, ...]
    numbers: Tensor
    weights: Tensor
    ids: GroupIds


class LowLatency(PackageMember):
    """Send each token once for each of its experts, into that expert's block, in bf16."""

    @abstractmethod
    def open(self, room: int, hidden: int, ids: GroupIds) -> Any:
        """Make the buffer of calls of at most `room` tokens of a rank. Collective."""

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        counts = exchange(
            self.group, x, routing, capacity=self.capacity, experts_of=self.experts_of
        ).counts
        ids, room, hidden = self.group_ids(x.codes.device), room_for(counts), x.codes.shape[1]
        buffer = self.opened((room, hidden), lambda: self.open(room, hidden, ids))
        numbers = ids.numbers(routing.topk_ids)
        arrived, block_counts, handle, _, _ = buffer.low_latency_dispatch(
            x.codes.contiguous(), numbers, room, ids.total, use_fp8=False
        )
        local_experts = ids.expert_of[self.group.rank]
        local_experts = local_experts[local_experts >= 0]
        local = len(local_experts)
        tokens = tokens_of_blocks(handle[0][:local], handle[1][:local], counts)
        everyone = ids_of_all(self.group, routing.topk_ids, counts)
        used = tokens.flatten() >= 0
        blocks = local_experts.int().repeat_interleave(tokens.shape[1])
        return Dispatched(
            x=x.replace(codes=arrived[:local].reshape(-1, hidden)),
            routing=Routing(
                topk_ids=torch.where(used, blocks, -1)[:, None],
                topk_weights=torch.ones((len(used), 1), device=used.device),
            ),
            counts=counts,
            tokens=tokens.flatten(),
            slots=slots_of(tokens, local_experts, everyone).flatten(),
            block_counts=block_counts[:local].int(),
            state=Exchange(
                buffer=buffer,
                handle=handle,
                numbers=numbers,
                weights=sent_weights(routing),
                ids=ids,
            ),
        )

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        sent: Exchange = dispatched.state
        # The kernel has blocks for as many experts on each rank.
        shape = sent.ids.per_rank, self.group.size * sent.handle[2], partial.shape[1]
        blocks = partial.new_zeros(shape)
        blocks.view(-1, partial.shape[1])[: len(partial)] = partial
        out: Tensor = sent.buffer.low_latency_combine(
            blocks, sent.numbers, sent.weights, sent.handle
        )[0]
        return out


def tokens_of_blocks(numbers: Tensor, ranges: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Return [e, C] int32, which of all ranks' tokens each row of a block is; -1 = not in use.

    numbers: [e, C] the sender's number of each row. ranges: [e, S] int64, the first row of each
    sender in the upper half, how many it has in the lower one.
    """
    first, length = ranges >> _COUNT_BITS, ranges & ((1 << _COUNT_BITS) - 1)
    row = torch.arange(numbers.shape[1], device=numbers.device)[None, :, None]
    is_of = (row >= first[:, None]) & (row < (first + length)[:, None])  # [e, C, S]
    starts = torch.tensor(starts_of(counts), dtype=torch.int64, device=numbers.device)
    token = starts[is_of.int().argmax(dim=2)] + numbers
    return torch.where(is_of.any(dim=2), token, -1).int()


def slots_of(tokens: Tensor, experts: Tensor, everyone: Tensor) -> Tensor:
    """Return [e, C] int32, the slot in which each row's token has the block's expert; or -1.

    tokens: of `tokens_of_blocks`. experts: [e] ids. everyone: [sum of counts, k] ids.
    """
    if len(everyone) == 0:
        return torch.full_like(tokens, -1)
    ids = everyone[tokens.clamp(min=0).long()]  # [e, C, k]
    slot = (ids == experts[:, None, None]).int().argmax(dim=2)
    return torch.where(tokens >= 0, slot, -1).int()
