"""Every expert for every token; those that the gate did not choose have weight 0."""

import torch
import torch.distributed as dist
from torch.nn.functional import silu

from moe.layers.base import LayerSubject


class DenseLayer(LayerSubject):
    def load(self, checkpoint):
        columns = self.layer_spec.layout.intermediate_of(self.rank, self.layer_spec.intermediate)
        part = slice(columns.start, columns.stop)
        experts = [checkpoint.expert(e) for e in range(self.layer_spec.num_experts)]
        self.gate_weight = checkpoint.gate_weight
        self.gate = torch.stack([mlp.gate[part] for mlp in experts]).float()
        self.up = torch.stack([mlp.up[part] for mlp in experts]).float()
        self.down = torch.stack([mlp.down[:, part] for mlp in experts]).float()

    def route(self, x):
        probs = torch.softmax((x @ self.gate_weight.T).float(), dim=-1)
        weights, ids = probs.topk(self.layer_spec.top_k, dim=-1)
        if self.layer_spec.renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return torch.zeros_like(probs).scatter(1, ids, weights)

    def forward(self, x):
        values = x.float()
        gate, up = values @ self.gate.mT, values @ self.up.mT  # [E, T, n]
        out = (silu(gate) * up) @ self.down.mT
        out = (out * self.route(x).T[:, :, None]).sum(dim=0)
        if self.layer_spec.layout.world_size > 1:
            dist.all_reduce(out)
        return out.to(x.dtype)
