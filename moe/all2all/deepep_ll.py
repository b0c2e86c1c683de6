"""Send tokens by DeepEP's low-latency kernels, over RDMA and NVLink."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moe.all2all.low_latency import LowLatency

if TYPE_CHECKING:
    from moe.all2all.group_ids import GroupIds


class DeepEpLowLatency(LowLatency):
    """Open DeepEP's buffer in its low-latency mode."""

    def open(self, room: int, hidden: int, ids: GroupIds) -> Any:
        # Imported on use: planning works without DeepEP.
        from deep_ep import Buffer

        size = Buffer.get_low_latency_rdma_size_hint(room, hidden, self.group.size, ids.total)
        return Buffer(
            self.group.handle,
            num_rdma_bytes=size,
            low_latency_mode=True,
            num_qps_per_rank=ids.per_rank,  # as many as local experts: the kernel relies on it
        )
