"""Send tokens by DeepEP's high-throughput kernels over NVLink, within one host.

A rank receives a row for each token that has an expert there, by sender, in the order of the
sender's tokens. Rows come back to be added in float32 and rounded once to bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from moe.all2all.group_ids import starts_of
from moe.all2all.package_member import PackageMember, sent_weights
from moe.all2all.sizes import exchange
from moe.errors import MoEError
from moe.types import Dispatched, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations

_HANDLE = 6  # parts of what `dispatch` returns for `combine`, if ranks are on one host


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Hold what `finalize` needs: DeepEP's buffer and the handle of this call."""

    buffer: Any
    handle: tuple[Any, ...]


class DeepEpHighThroughput(PackageMember):
    """Send each token once to every rank that holds one of its experts."""

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        """Return the rows that arrived; see the base class.

        Raises MoEError if ranks are on several hosts, where DeepEP does not tell whose rows are.
        """
        counts = exchange(
            self.group, x, routing, capacity=self.capacity, experts_of=self.experts_of
        ).counts
        ids = self.group_ids(x.codes.device)
        width = x.codes.shape[1] * max(x.codes.element_size(), 2)  # rows come back as bf16
        buffer = self.opened(width, lambda: self._open(width))
        numbers = ids.numbers(routing.topk_ids)
        per_rank, per_rdma_rank, per_expert, is_in_rank, _ = buffer.get_dispatch_layout(
            numbers, ids.total
        )
        arrived, places, weights, _, handle, _ = buffer.dispatch(
            sent_rows(x),
            num_tokens_per_rank=per_rank,
            num_tokens_per_rdma_rank=per_rdma_rank,
            is_token_in_rank=is_in_rank,
            num_tokens_per_expert=per_expert,
            topk_idx=numbers,
            topk_weights=sent_weights(routing),
        )
        codes, scale = arrived if isinstance(arrived, tuple) else (arrived, x.scale)
        return Dispatched(
            x=x.replace(codes=codes, scale=scale),
            routing=Routing(
                topk_ids=ids.experts(places, self.group.rank),
                topk_weights=torch.where(places >= 0, weights, 0.0),
            ),
            counts=counts,
            tokens=tokens_of(handle, self.group.rank, counts),
            state=Exchange(buffer=buffer, handle=handle),
        )

    def _open(self, width: int) -> Any:
        """Make the buffer for rows of `width` bytes. Collective."""
        # Imported on use: planning works without DeepEP.
        from deep_ep import Buffer

        ranks = self.group.size
        configs = Buffer.get_dispatch_config(ranks), Buffer.get_combine_config(ranks)
        size = max(config.get_nvl_buffer_size_hint(width, ranks) for config in configs)
        return Buffer(self.group.handle, num_nvl_bytes=size)

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        sent: Exchange = dispatched.state
        out: Tensor = sent.buffer.combine(partial.contiguous(), sent.handle)[0]
        return out


def sent_rows(x: Activations) -> Tensor | tuple[Tensor, Tensor]:
    """Return the rows as DeepEP takes them: bf16, or codes with their scales in a tuple."""
    if x.scale is None or not x.format.has_row_scales:
        return x.codes.contiguous()
    return x.codes.contiguous(), x.scale.float().contiguous()


def tokens_of(handle: tuple[Any, ...], rank: int, counts: tuple[int, ...]) -> Tensor:
    """Return [G] int32, which of all ranks' tokens each arrived row is.

    handle: of `dispatch`. Its first part is [S, S], where on each rank (column) the rows of a
    sender (row) end; its fourth is [G], the sender's number of each row. Raises MoEError for a
    handle of ranks on several hosts.
    """
    if len(handle) != _HANDLE:
        raise MoEError(
            f"DeepEP's handle has {len(handle)} parts, and {_HANDLE} if all ranks are on one host: "
            "use an all2all backend that names the tokens it moves, such as all_to_all"
        )
    ends, numbers = handle[0][:, rank].long(), handle[3]
    rows = torch.arange(len(numbers), device=numbers.device)
    sender = torch.searchsorted(ends.contiguous(), rows, right=True)
    starts = torch.tensor(starts_of(counts), dtype=torch.int64, device=numbers.device)
    tokens: Tensor = starts[sender] + numbers
    return tokens.int()
