"""Mistakes of ranks that leave step, which over gloo make nobody wait, and of late ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist

from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from moe.collectives import Group
from moe.layer import FusedMoE
from moe.moe_kernel import MoEKernel
from tests.mistakes.mistake import SAYS, around, mistake

EP = {"dp_size": 2, "use_ep": True}
DIFFER = f"{SAYS}collectives differ"


@mistake("idle rank skips an unneeded collective", "vLLM #43547", DIFFER, tokens="idle", **EP)
def a_rank_without_tokens_skips_an_empty_sum(patch):
    def apply(real, self, x, *args):
        if len(x.codes if hasattr(x, "codes") else x):
            dist.all_reduce(torch.empty(0))
        return real(self, x, *args)

    around(patch, MoEKernel, "apply", apply)


@mistake("sent as another dtype", "class of NCCL mismatches", DIFFER, **EP)
def weights_sent_as_integers_by_one_rank(patch):
    def all_gather(real, self, x):
        if x.dtype is torch.float32 and self.rank == 1:
            return real(self, x.view(torch.int32)).view(torch.float32)
        return real(self, x)

    around(patch, Group, "all_gather", all_gather)


@mistake("group of the wrong ranks", "class of NCCL mismatches", DIFFER, dp_size=2, tp_size=2)
def one_rank_adds_an_empty_sum_over_its_dp_group(patch):
    """Rank 3 takes the group across DP ranks where the others take that of their TP ranks."""

    def forward(real, self, *args, **kw):
        output = real(self, *args, **kw)
        group = self.groups.gather if dist.get_rank() == 3 else self.groups.tp
        dist.all_reduce(torch.empty(0), group=group.handle)
        return output

    around(patch, FusedMoE, "forward", forward)


@mistake("read before it has arrived", "async without wait", "zeros", **EP, skew="calls")
def sums_read_before_the_exchange_has_ended(patch):
    def finalize(real, self, partial, dispatched):
        received = [torch.zeros_like(partial) for _ in range(self.group.size)]
        dist.all_gather(received, partial, group=self.group.handle, async_op=True)
        rows = len(partial) // self.group.size
        mine = slice(rows * self.group.rank, rows * (self.group.rank + 1))
        return sum(r[mine] for r in received)[: dispatched.counts[self.group.rank]]

    around(patch, AllGatherReduceScatter, "finalize", finalize)
