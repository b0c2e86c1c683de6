"""Run the MoE blocks of DeepSeek-V3, GLM-4.5, Llama-4 and gpt-oss as transformers releases them.

They have what the blocks of `moe.layers.transformers_blocks` lack: shared experts, a correction
bias with groups of experts, router weights on the experts' input, or biases. Under tensor
parallelism the sums of shared experts are added over the ranks apart from those of routed ones;
under expert parallelism each rank has whole shared experts. Both are transformers' own plans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moe.layers import LAYERS
from moe.layers.transformers_blocks import TransformersBlock, frozen
from moe.layout import chunk

if TYPE_CHECKING:
    from moe.layers.base import CheckpointMLP, CheckpointWeights


class DeepseekV3Block(TransformersBlock, row=LAYERS.row("transformers_deepseek_v3")):
    """Run `DeepseekV3MoE`."""

    model, prefix, block_class = "deepseek_v3", "DeepseekV3", "MoE"
    experts_field, intermediate_field = "n_routed_experts", "moe_intermediate_size"

    def more_fields(self) -> dict[str, Any]:
        spec = self.layer_spec
        return {
            "n_shared_experts": max(spec.shared_experts, 1),  # of zeros, if there is none
            "n_group": spec.router_groups,
            "topk_group": spec.chosen_groups,
            "routed_scaling_factor": spec.router_scale,
        }

    def finish(self, block: Any, checkpoint: CheckpointWeights) -> None:
        super().finish(block, checkpoint)
        bias = checkpoint.gate_bias
        if bias is None:
            bias = torch.zeros(self.layer_spec.num_experts, device=self.device)
        block.gate.e_score_correction_bias = bias
        fill_shared(self, block.shared_experts, checkpoint)


class Glm4MoeBlock(DeepseekV3Block, row=LAYERS.row("transformers_glm4_moe")):
    """Run `Glm4MoeMoE`, GLM-4.5's."""

    model, prefix = "glm4_moe", "Glm4Moe"


class Llama4Block(TransformersBlock, row=LAYERS.row("transformers_llama4")):
    """Run `Llama4TextMoe`, whose one expert of a token gets the token times its score."""

    model, prefix, block_class = "llama4", "Llama4Text", "Moe"
    experts_field, gate_field, renormalizes_always = "num_local_experts", "router", True

    def fill_experts(self, experts: Any, mlps: list[CheckpointMLP], part: slice) -> None:
        super().fill_experts(experts, mlps, part)
        experts.gate_up_proj = frozen(experts.gate_up_proj.transpose(1, 2))
        experts.down_proj = frozen(experts.down_proj.transpose(1, 2))

    def finish(self, block: Any, checkpoint: CheckpointWeights) -> None:
        super().finish(block, checkpoint)
        fill_shared(self, block.shared_expert, checkpoint)


class GptOssBlock(TransformersBlock, row=LAYERS.row("transformers_gpt_oss")):
    """Run `GptOssMLP`, whose gate and up alternate by columns. Its gate's bias is 0."""

    model, prefix, block_class = "gpt_oss", "GptOss", "MLP"
    experts_field, gate_field, renormalizes_always = "num_local_experts", "router", True

    def fill_experts(self, experts: Any, mlps: list[CheckpointMLP], part: slice) -> None:
        del part  # experts are whole: the row takes no tensor parallelism
        experts.gate_up_proj = frozen(torch.stack([_alternating(m.gate, m.up).T for m in mlps]))
        experts.down_proj = frozen(torch.stack([m.down.T for m in mlps]))
        experts.gate_up_proj_bias = frozen(torch.stack([_biases(m)[0] for m in mlps]))
        experts.down_proj_bias = frozen(torch.stack([_biases(m)[1] for m in mlps]))

    def finish(self, block: Any, checkpoint: CheckpointWeights) -> None:
        super().finish(block, checkpoint)
        assert checkpoint.gate_weight is not None, "only a layer that takes logits has no gate"
        block.router.bias = frozen(checkpoint.gate_weight.new_zeros(self.layer_spec.num_experts))


def fill_shared(layer: TransformersBlock, module: Any, checkpoint: CheckpointWeights) -> None:
    """Set an MLP of shared experts to this rank's columns; to zeros if the layer has none."""
    layout = layer.layer_spec.layout
    gate, up, down = _shared(layer, checkpoint)
    columns = range(len(gate))
    if not layout.use_ep:
        columns = chunk(len(gate), layout.tp_size, layout.tp_rank(layer.rank))
        module.register_forward_hook(layer.add_over_ranks)
    part = slice(columns.start, columns.stop)
    module.gate_proj.weight, module.up_proj.weight = frozen(gate[part]), frozen(up[part])
    module.down_proj.weight = frozen(down[:, part])


def _shared(
    layer: TransformersBlock, checkpoint: CheckpointWeights
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return gate, up [N, K] and down [K, N] of the shared experts; zeros if there are none."""
    mlp, spec = checkpoint.shared, layer.layer_spec
    if mlp is None:
        assert checkpoint.gate_weight is not None, "only a layer that takes logits has no gate"
        zeros = checkpoint.gate_weight.new_zeros(spec.intermediate, spec.hidden)
        return zeros, zeros, zeros.T
    assert mlp.up is not None, "the rows name gated activations only"
    return mlp.gate, mlp.up, mlp.down


def _alternating(gate: torch.Tensor, up: torch.Tensor | None) -> torch.Tensor:
    """Return the rows of gate and up by turns: [2N, ...] from two of [N, ...]."""
    assert up is not None, "the row names a gated activation only"
    return torch.stack((gate, up), dim=1).flatten(0, 1)


def _biases(mlp: CheckpointMLP) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an expert's biases, [2N] by turns and [K]; zeros if the layer has none."""
    if mlp.gate_bias is None or mlp.down_bias is None:
        return mlp.gate.new_zeros(2 * len(mlp.gate)), mlp.down.new_zeros(len(mlp.down))
    return _alternating(mlp.gate_bias, mlp.up_bias), mlp.down_bias
