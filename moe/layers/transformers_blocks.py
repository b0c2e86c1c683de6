"""Run the MoE blocks of Mixtral, Qwen3-MoE and OLMoE as transformers releases them.

A block is built from its configuration class at the layer's size, and has its own gate. Tensor
parallelism splits the columns of each expert, expert parallelism the experts; the ranks' partial
sums are added in the layer's dtype. Both are transformers' own plans for these models. The experts'
implementation is `grouped_mm`, its default for a whole model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from moe import released
from moe.layers import LAYERS
from moe.layers.base import LayerSubject
from moe.spec import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from moe.layers.base import CheckpointMLP, CheckpointWeights


class TransformersBlock(LayerSubject):
    """Build a block, shard its weights, and call it."""

    model: ClassVar[str]  # module of `transformers.models`
    prefix: ClassVar[str]  # of its classes
    block_class: ClassVar[str] = "SparseMoeBlock"
    gate_field: ClassVar[str] = "gate"
    experts_field: ClassVar[str] = "num_experts"  # of its configuration
    intermediate_field: ClassVar[str] = "intermediate_size"
    renormalizes_always: ClassVar[bool] = False

    def load(self, checkpoint: CheckpointWeights) -> None:
        """Make the block around this rank's shard."""
        spec, layout = self.layer_spec, self.layer_spec.layout
        experts, columns = (
            spec.experts_of(self.rank),
            layout.intermediate_of(self.rank, spec.intermediate),
        )
        block_class = self._released("modeling", self.block_class)
        with torch.device("meta"):
            block: Any = block_class(self._config(spec.num_experts, spec.intermediate)).eval()
            block.experts = type(block.experts)(self._config(len(experts), len(columns)))
        part = slice(columns.start, columns.stop)
        assert checkpoint.gate_weight is not None, "only a layer that takes logits has no gate"
        getattr(block, self.gate_field).weight = frozen(checkpoint.gate_weight)
        self.fill_experts(block.experts, [checkpoint.expert(e) for e in experts], part)
        self.finish(block, checkpoint)
        if layout.use_ep:
            block.experts._is_expert_parallel = True  # read since 5.18
            block.experts.register_forward_pre_hook(self._to_local)
            local_ids = spec.placement.expert_map(layout.ep_rank(self.rank))
            self._local_ids = torch.tensor(local_ids, device=self.device)
        self._block = block

    def fill_experts(self, experts: Any, mlps: list[CheckpointMLP], part: slice) -> None:
        """Set the weights of the experts to these columns of the MLPs."""
        experts.gate_up_proj = frozen(torch.stack([_joined(mlp, part) for mlp in mlps]))
        experts.down_proj = frozen(torch.stack([mlp.down[:, part] for mlp in mlps]))

    def finish(self, block: Any, checkpoint: CheckpointWeights) -> None:
        """Set what a model's block has besides a gate and experts, and add over ranks.

        The experts' partial sums are added where transformers adds them: behind the experts.
        """
        del checkpoint
        block.experts.register_forward_hook(self.add_over_ranks)

    def add_over_ranks(self, module: Any, inputs: Any, out: Tensor) -> Tensor:
        """Return a module's output, added over the ranks in the layer's dtype."""
        del module, inputs
        return self.groups.tp.all_reduce(out)

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if len(x) == 0:
            return torch.empty_like(x)
        returned = self._block(x[None])
        out: Tensor = returned[0] if isinstance(returned, tuple) else returned
        return out.view(x.shape)

    def _to_local(self, module: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Give slots of other ranks' experts the id after the last one, and weight 0."""
        x, ids, weights = arguments
        local = self._local_ids[ids]
        absent = local < 0
        return x, local.masked_fill(absent, module.num_experts), weights.masked_fill(absent, 0.0)

    def _config(self, num_experts: int, intermediate: int) -> Any:
        spec = self.layer_spec
        fields: dict[str, Any] = {
            "hidden_size": spec.hidden,
            "num_experts_per_tok": spec.top_k,
            "hidden_act": released.ACTIVATION_NAMES.get(spec.activation, "silu"),
            self.experts_field: num_experts,
            self.intermediate_field: intermediate,
        }
        if not self.renormalizes_always:
            fields["norm_topk_prob"] = spec.renormalize
        fields |= self.more_fields()
        config = self._released("configuration", "Config")(**fields)
        config._experts_implementation = "grouped_mm"
        return config

    def more_fields(self) -> dict[str, Any]:
        """Return further fields of the configuration."""
        return {}

    def _released(self, kind: str, name: str) -> Any:
        return resolve(f"transformers.models.{self.model}.{kind}_{self.model}:{self.prefix}{name}")


def _joined(mlp: CheckpointMLP, part: slice) -> Tensor:
    """Return these rows of gate and of up, [2n, K]."""
    assert mlp.up is not None, "the rows name gated activations only"
    return torch.cat((mlp.gate[part], mlp.up[part]))


def frozen(tensor: Tensor) -> torch.nn.Parameter:
    """Return a parameter without a gradient."""
    return torch.nn.Parameter(tensor.contiguous(), requires_grad=False)


class MixtralBlock(TransformersBlock, row=LAYERS.row("transformers_mixtral")):
    """Run `MixtralSparseMoeBlock`."""

    model, prefix = "mixtral", "Mixtral"
    experts_field = "num_local_experts"
    renormalizes_always = True


class Qwen3MoeBlock(TransformersBlock, row=LAYERS.row("transformers_qwen3_moe")):
    """Run `Qwen3MoeSparseMoeBlock`."""

    model, prefix = "qwen3_moe", "Qwen3Moe"
    intermediate_field = "moe_intermediate_size"


class OlmoeBlock(TransformersBlock, row=LAYERS.row("transformers_olmoe")):
    """Run `OlmoeSparseMoeBlock`."""

    model, prefix = "olmoe", "Olmoe"
