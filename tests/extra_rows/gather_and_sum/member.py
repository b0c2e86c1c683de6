"""Every rank gets all tokens; all sums go to every rank, which keeps those of its tokens."""

import torch
from torch.nn.functional import pad

from moe.all2all.base import PrepareFinalize
from moe.types import Dispatched, Routing


class GatherAndSum(PrepareFinalize):
    def prepare(self, x, routing):
        counts = self.group.gather_counts(len(x.codes), x.codes.device)
        gathered = Routing(
            topk_ids=self.gathered(routing.topk_ids, counts, -1),
            topk_weights=self.gathered(routing.topk_weights, counts),
        )
        codes = self.gathered(x.codes, counts)
        return Dispatched(x=x.replace(codes=codes), routing=gathered, counts=counts)

    def gathered(self, x, counts, padding=0):
        """Ranks send as many rows as the rank that has most."""
        return self.group.all_gather(pad(x, (0, 0, 0, max(counts) - len(x)), value=padding))

    def finalize(self, partial, dispatched):
        is_token = dispatched.routing.topk_ids.amax(dim=1, keepdim=True) >= 0
        total = self.group.all_reduce(torch.where(is_token, partial, 0).to(partial.dtype))
        start = self.group.rank * max(dispatched.counts)
        return total[start : start + dispatched.counts[self.group.rank]]
