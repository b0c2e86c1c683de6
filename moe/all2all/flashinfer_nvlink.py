"""Send tokens by FlashInfer's MoeAlltoAll, which writes into other ranks' memory over NVLink.

Up to four tensors with a row for each token travel together: here ids, weights with the token's
number, scales and codes. A rank receives room for the tokens of each rank, of which it uses the
first ones. The rows that come back are added in their own dtype, by pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from moe.all2all.group_ids import starts_of
from moe.all2all.package_member import PackageMember, room_for, sent_weights
from moe.all2all.sizes import exchange
from moe.byte_views import as_bytes
from moe.types import Dispatched, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations

_WIDEST = 4  # bytes of an element of the layer's dtype, for the way back
# The kernel copies up to 16 bytes at a time, by the width of a row alone, and begins a tensor where
# the one before ends: 16 rows of any width end at a multiple of 16 bytes.
_FEWEST = 16


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Hold what `finalize` needs. rows: [G] int64, place of each row among the S * room."""

    alltoall: Any
    rows: Tensor
    room: int


class FlashInferNvlink(PackageMember):
    """Send each token once to every rank that holds one of its experts."""

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        counts = exchange(
            self.group, x, routing, capacity=self.capacity, experts_of=self.experts_of
        ).counts
        ids = self.group_ids(x.codes.device)
        payloads = payloads_of(x, routing, starts_of(counts)[self.group.rank])
        room, top_k = max(room_for(counts), _FEWEST), routing.topk_ids.shape[1]
        size = sum(t.shape[1] * t.element_size() for t in payloads)
        key = room, top_k, ids.total, size, x.codes.shape[1]
        alltoall = self.opened(key, lambda: self._open(*key))
        arrived = alltoall.dispatch(
            token_selected_experts=ids.filled(ids.numbers(routing.topk_ids), self.group.rank),
            input_payloads=payloads,
            runtime_max_tokens_per_rank=room,
            invalid_token_expert_id=-1,
            expert_id_payload_index=0,
        )
        flat = [t.reshape(self.group.size * room, t.shape[-1]) for t in arrived]
        # Ids are -1 in rows that are not in use, and a row for no expert is dropped.
        rows = self.held_here(flat[0]).any(dim=1).nonzero()[:, 0]
        ids_there, weighted, *values = (t[rows] for t in flat)
        return Dispatched(
            x=x.replace(
                codes=values[-1].view(x.codes.dtype),
                scale=x.scale if len(values) == 1 else _as_scale(values[0], x.scale),
            ),
            routing=Routing(
                topk_ids=ids_there, topk_weights=weighted[:, :-1].contiguous().view(torch.float32)
            ),
            counts=counts,
            tokens=weighted[:, -1].contiguous(),
            state=Exchange(alltoall=alltoall, rows=rows, room=room),
        )

    def _open(self, room: int, top_k: int, experts: int, size: int, width: int) -> Any:
        """Make the workspace of calls of at most `room` tokens of a rank. Collective."""
        # Imported on use: planning works without FlashInfer.
        from flashinfer.comm import Mapping, MoeAlltoAll, moe_a2a_get_workspace_size_per_rank
        from flashinfer.comm.mnnvl import MnnvlConfig, TorchDistBackend

        class WholeGroup(TorchDistBackend):  # type: ignore[misc]
            """Use the group itself for its ranks: a new one each time would leave its threads."""

            def Split(self, *_: int) -> WholeGroup:  # noqa: N802 (FlashInfer's name)
                return self

        ranks = self.group.size
        mapping = Mapping(
            world_size=ranks,
            rank=self.group.rank,
            gpus_per_node=ranks,
            tp_size=ranks,
            moe_ep_size=ranks,
        )
        return MoeAlltoAll(
            mapping,
            max_num_tokens=room,
            top_k=top_k,
            num_experts=experts,
            workspace_size_per_rank=moe_a2a_get_workspace_size_per_rank(
                ep_size=ranks,
                max_num_tokens=room,
                total_dispatch_payload_size_per_token=size,
                combine_payload_size_per_token=2 * width * _WIDEST,  # packed codes hold two values
            ),
            mnnvl_config=MnnvlConfig(comm_backend=WholeGroup(self.group.handle)),
        )

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        sent: Exchange = dispatched.state
        payload = partial.new_zeros((self.group.size * sent.room, partial.shape[1]))
        payload[sent.rows] = partial
        shape = (self.group.size, sent.room, partial.shape[1])
        out: Tensor = sent.alltoall.combine(
            payload=payload.view(shape), runtime_max_tokens_per_rank=sent.room
        )
        return out


def payloads_of(x: Activations, routing: Routing, first: int) -> list[Tensor]:
    """Return what travels of each token: ids, weights, row scales if there are, and codes.

    The token's number stands behind its weights, [T, k + 1] int32 words, since the kernel takes
    four tensors at most. first: number of this rank's first token. The widest elements come first,
    as the kernel wants it; those of one byte are uint8.
    """
    device = x.codes.device
    numbers = torch.arange(first, first + len(x.codes), dtype=torch.int32, device=device)
    weights = sent_weights(routing).contiguous().view(torch.int32)
    sent = [routing.topk_ids.int().contiguous(), torch.cat([weights, numbers[:, None]], dim=1)]
    if x.scale is not None and x.format.has_row_scales:
        sent.append(as_bytes(x.scale.contiguous()))
    return [*sent, as_bytes(x.codes.contiguous())]


def _as_scale(arrived: Tensor, scale: Tensor | None) -> Tensor:
    """Return the scales that arrived in the dtype in which they were sent."""
    assert scale is not None, "row scales arrive only if they were sent"
    return arrived.view(scale.dtype)
