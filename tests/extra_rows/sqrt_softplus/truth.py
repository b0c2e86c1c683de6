"""The same routing in float64, for the reference: softplus(x) = log(1 + exp(x))."""

import torch


class SqrtSoftplusTruth:
    gap = 1 / 16

    def scores(self, logits):
        zero = torch.zeros((), dtype=torch.float64, device=logits.device)
        return torch.logaddexp(logits.double(), zero).sqrt()

    def choose(self, logits, top_k):
        order = torch.argsort(logits.double(), dim=-1, descending=True, stable=True)
        return order[:, :top_k].to(torch.int32)

    def weights(self, logits, topk_ids, *, renormalize):
        weights = self.scores(logits).gather(1, topk_ids.long())
        if renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.float()

    def is_valid(self, logits, is_selected, noise):
        scores = self.scores(logits)
        lowest = scores.masked_fill(~is_selected, torch.inf).amin(dim=1)
        highest = scores.masked_fill(is_selected, 0.0).amax(dim=1)
        return ~(lowest < highest * (1 - noise))
