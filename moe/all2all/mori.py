"""Send tokens by MoRI's dispatch and combine on ROCm, within one host.

MoRI sends a slot without an expert to rank 0, so that each gets the number of another one of its
token; the true ids are gathered beside it. Which token a row is follows from its source position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from moe.all2all.group_ids import ids_of_all, starts_of
from moe.all2all.package_member import PackageMember, picked, room_for, sent_weights
from moe.all2all.sizes import exchange
from moe.types import Dispatched, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations

_WIDEST = 4  # bytes of an element of the layer's dtype, for the way back


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Hold what `finalize` needs. numbers: [T, k] int32, as sent. rows: [G] int64, the rows in use
    of the `received` ones.
    """

    op: Any
    numbers: Tensor
    rows: Tensor
    received: int


class Mori(PackageMember):
    """Send each token once to every rank that holds one of its experts."""

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        counts = exchange(
            self.group, x, routing, capacity=self.capacity, experts_of=self.experts_of
        ).counts
        ids, rank = self.group_ids(x.codes.device), self.group.rank
        room, top_k = room_for(counts), routing.topk_ids.shape[1]
        scale = x.scale if x.format.has_row_scales else None
        sizes = (
            room,
            x.codes.shape[1],
            x.codes.dtype,
            0 if scale is None else scale.shape[1],
            0 if scale is None else scale.element_size(),
            ids.per_rank,
            top_k,
        )
        op = self.opened(sizes, lambda: self._open(*sizes))
        numbers = ids.filled(ids.numbers(routing.topk_ids), rank)
        codes, weights, scales, _, total = op.dispatch(
            x.codes.contiguous(), sent_weights(routing), scale, numbers
        )
        received = int(total)
        tokens = tokens_at(op.get_dispatch_src_token_pos()[:received], room, counts)
        true_ids = ids_of_all(self.group, routing.topk_ids, counts)[tokens.long()]
        rows = self.held_here(true_ids).any(dim=1).nonzero()[:, 0]
        return Dispatched(
            x=x.replace(
                codes=picked(codes, rows), scale=x.scale if scale is None else scales[rows]
            ),
            routing=Routing(topk_ids=true_ids[rows], topk_weights=weights[rows]),
            counts=counts,
            tokens=tokens[rows],
            state=Exchange(op=op, numbers=numbers, rows=rows, received=received),
        )

    def _open(
        self,
        room: int,
        width: int,
        dtype: torch.dtype,
        scales: int,
        scale_bytes: int,
        experts: int,
        top_k: int,
    ) -> Any:
        """Make the operator of calls of at most `room` tokens of a rank. Collective."""
        # Imported on use: planning works without MoRI.
        from mori import ops, shmem

        assert self.group.handle is not None
        self.opened("shmem", lambda: shmem.shmem_torch_process_group_init(self._host_group()))
        config = ops.EpDispatchCombineConfig(
            data_type=dtype,
            rank=self.group.rank,
            world_size=self.group.size,
            hidden_dim=width,
            scale_dim=scales,
            scale_type_size=scale_bytes,
            max_token_type_size=_WIDEST,
            max_num_inp_token_per_rank=room,
            num_experts_per_rank=experts,
            num_experts_per_token=top_k,
        )
        return ops.EpDispatchCombineOp(config)

    def _host_group(self) -> str:
        """Return the name of a group of the same ranks over gloo: MoRI exchanges host memory."""
        ranks = dist.get_process_group_ranks(self.group.handle)
        group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
        name: str = group.group_name
        return name

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        sent: Exchange = dispatched.state
        rows = partial.new_zeros((sent.received, partial.shape[1]))
        rows[sent.rows] = partial
        out: Tensor = sent.op.combine(rows, None, sent.numbers)[0]
        return out[: dispatched.counts[self.group.rank]].clone()  # later calls use its memory


def tokens_at(positions: Tensor, room: int, counts: tuple[int, ...]) -> Tensor:
    """Return [G] int32, which of all ranks' tokens each row is.

    positions: [G], rank * room + number of the token on that rank.
    """
    starts = torch.tensor(starts_of(counts), dtype=torch.int64, device=positions.device)
    place = positions.long()
    return (starts[place // room] + place % room).int()
