"""Every rank gets all tokens; all sums go to every rank, which keeps those of its tokens."""

import torch
from torch.nn.functional import pad

from moe.all2all.base import PrepareFinalize
from moe.failed_call import Postponed, filled
from moe.types import Dispatched, Routing


class GatherAndSum(PrepareFinalize):
    def prepare(self, x, routing):
        counts, own = self.group.gather_counts(len(x.codes), x.codes.device), Postponed()
        rows = max(counts)

        def gathered(t, padding=0):
            """Send as many rows as the rank that has most, whatever fails here."""
            missing = (0, 0, 0, rows - len(t))
            sent = own.made(
                lambda: pad(t, missing, value=padding), lambda: filled(t, rows, padding)
            )
            return self.group.all_gather(sent)

        of_all = Routing(
            topk_ids=gathered(routing.topk_ids, -1),
            topk_weights=gathered(routing.topk_weights),
        )
        sent = x.replace(codes=gathered(x.codes))
        return Dispatched(x=sent, routing=of_all, counts=counts, error=own.error)

    def finalize(self, partial, dispatched):
        own = Postponed()
        is_token = dispatched.routing.topk_ids.amax(dim=1, keepdim=True) >= 0
        safe = own.made(
            lambda: torch.where(is_token, partial, 0).to(partial.dtype),
            lambda: torch.full_like(partial, torch.nan),
        )
        total = self.group.all_reduce(safe)
        own.end()
        start = self.group.rank * max(dispatched.counts)
        return total[start : start + dispatched.counts[self.group.rank]]
