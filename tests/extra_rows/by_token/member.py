"""One token and one of its experts after another, in float32."""

import torch

from moe import guarded_buffers
from moe.experts.base import Experts


class ByToken(Experts):
    def prepare_weights(self, weights):
        self.w13, self.w2 = weights.w13.float(), weights.w2.float()

    def apply(self, x, routing):
        tokens = x.codes.float()
        total = torch.zeros_like(tokens)
        for token, slot in (routing.topk_ids >= 0).nonzero().tolist():
            e = int(routing.topk_ids[token, slot])
            gate, up = (self.w13[e] @ tokens[token]).chunk(2)
            y = self.w2[e] @ self.activation(gate, up)
            total[token] += routing.topk_weights[token, slot] * y
        out = guarded_buffers.empty(total.shape, dtype=self.dtype, device=total.device)
        return out.copy_(total)
