"""Send tokens by NIXL's kernels for expert parallelism, in their low-latency mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moe.all2all.low_latency import LowLatency

if TYPE_CHECKING:
    from moe.all2all.group_ids import GroupIds


class NixlLowLatency(LowLatency):
    """Open NIXL's buffer and connect it to the other ranks of the group."""

    def open(self, room: int, hidden: int, ids: GroupIds) -> Any:
        # Imported on use: planning works without NIXL.
        from nixl_ep import Buffer

        ranks = self.group.size
        buffer = Buffer(rank=self.group.rank, low_latency_mode=True, group=self.group.handle)
        size = Buffer.get_low_latency_buffer_size_hint(room, hidden, ranks, ids.total)
        buffer.update_memory_buffers(ranks, ids.per_rank, size)
        buffer.connect_ranks(list(range(ranks)))
        return buffer
