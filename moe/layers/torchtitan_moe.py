"""Run torchtitan's whole MoE layer, built from its configuration classes.

Expert parallelism is torchtitan's own: its dispatcher's all-to-all over all ranks. Without it, each
expert's columns and those of the shared experts are split over the tensor-parallel ranks, and the
partial sums are added in the layer's dtype; ranks with other tokens hold the same weights.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from moe.layers import LAYERS
from moe.layers.base import LayerSubject
from moe.layout import chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from moe.layers.base import CheckpointMLP, CheckpointWeights


class TorchtitanMoE(LayerSubject, row=LAYERS.row("torchtitan_moe")):
    """Build the layer, shard its weights, and call it."""

    def load(self, checkpoint: CheckpointWeights) -> None:
        """Make the layer around this rank's shard."""
        spec, layout = self.layer_spec, self.layer_spec.layout
        self._adds = layout.tp_size > 1 and not layout.use_ep  # over the tensor-parallel ranks
        experts = spec.experts_of(self.rank) if layout.use_ep else range(spec.num_experts)
        mlps = [self._shard(checkpoint.expert(e)) for e in experts]
        shared = None if checkpoint.shared is None else self._shard(checkpoint.shared)
        with torch.device("meta"):
            moe: Any = self._config(len(mlps), mlps[0], shared).build().eval()
        moe.tokens_per_expert_E = torch.zeros(spec.num_experts, device=self.device)
        assert checkpoint.gate_weight is not None, "only a layer that takes logits has no gate"
        moe.router.gate.weight = _frozen(checkpoint.gate_weight)
        for name, part in (("w1_EFD", 0), ("w3_EFD", 1), ("w2_EDF", 2)):
            stacked = torch.stack([mlp[part] for mlp in mlps])
            setattr(moe.routed_experts.inner_experts, name, _frozen(stacked))
        if shared is not None:
            for name, tensor in zip(("w1", "w3", "w2"), shared, strict=True):
                getattr(moe.shared_experts, name).weight = _frozen(tensor)
        if layout.use_ep and layout.world_size > 1:
            world = dist.distributed_c10d._get_default_group()
            mesh = DeviceMesh.from_group(world, self.device.type)
            moe.routed_experts.token_dispatcher.wire_meshes(ep_mesh=mesh)
        self._moe = moe

    def forward(self, *inputs: Tensor) -> Tensor:
        with _uneven_all_to_all():
            out: Tensor = self._moe(inputs[0][None])[0]
        return self.groups.tp.all_reduce(out) if self._adds else out

    def _shard(self, mlp: CheckpointMLP) -> tuple[Tensor, Tensor, Tensor]:
        """Return this rank's columns of gate, up and down."""
        layout = self.layer_spec.layout
        columns = range(len(mlp.gate))
        if self._adds:
            columns = chunk(len(mlp.gate), layout.tp_size, layout.tp_rank(self.rank))
        part = slice(columns.start, columns.stop)
        assert mlp.up is not None, "the row names gated activations only"
        return mlp.gate[part], mlp.up[part], mlp.down[:, part]

    def _config(
        self, num_local: int, expert: tuple[Tensor, ...], shared: tuple[Tensor, ...] | None
    ) -> Any:
        from torchtitan.models.common import feed_forward, linear, moe, token_dispatcher

        spec = self.layer_spec
        kind = "AllToAll" if spec.layout.use_ep else "Local"
        dispatcher = getattr(token_dispatcher, f"{kind}TokenDispatcher")

        def product(inner: int, outer: int) -> Any:
            return linear.Linear.Config(in_features=inner, out_features=outer)

        def mlp(columns: int) -> Any:
            into, back = product(spec.hidden, columns), product(columns, spec.hidden)
            return feed_forward.FeedForward.Config(w1=into, w2=back, w3=into)

        return moe.MoE.Config(
            num_experts=spec.num_experts,
            load_balance_coeff=None,  # of training
            router=moe.TokenChoiceTopKRouter.Config(
                num_experts=spec.num_experts,
                gate=product(spec.hidden, spec.num_experts),
                top_k=spec.top_k,
                score_func=spec.router,
                route_norm=spec.renormalize,
            ),
            routed_experts=moe.RoutedExperts.Config(
                inner_experts=moe.GroupedExperts.Config(
                    dim=spec.hidden, hidden_dim=len(expert[0]), num_experts=num_local
                ),
                token_dispatcher=dispatcher.Config(num_experts=spec.num_experts, top_k=spec.top_k),
            ),
            shared_experts=None if shared is None else mlp(len(shared[0])),
        )


@contextmanager
def _uneven_all_to_all() -> Iterator[None]:
    """Choose torchtitan's collectives of torch: gloo's all-to-all of `spmd_types` is even only."""
    from torchtitan.distributed import utils

    before = utils.get_spmd_backend()
    utils.set_spmd_backend("partial_dtensor")
    try:
        yield
    finally:
        utils.set_spmd_backend(before)


def _frozen(tensor: Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor.contiguous(), requires_grad=False)
