"""The k best roots of softplus(logit), with or without renormalisation."""

import torch
from torch.nn.functional import softplus

from moe.types import Routing


class SqrtSoftplusTopK:
    def __call__(self, logits, top_k, *, renormalize):
        scores = softplus(logits.float()).sqrt()
        weights, ids = scores.topk(top_k, dim=-1)
        if renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return Routing(topk_ids=ids.to(torch.int32), topk_weights=weights)
