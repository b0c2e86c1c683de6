"""FlashInfer's CUTLASS fused MoE on Hopper: bf16, and fp8 with static per-tensor scales.

One call does alignment, both products, the activation and the weighted sum. It is always called
as a layer of this rank's experts alone (`ep_size=1`), with local ids: which experts live here is
known to the layer, so the kernel's own even split of experts over ranks is not needed.

The kernel treats an id outside of `[0, e)` as an expert of another rank and drops the slot
before the products, so -1 is handed on as it is. Sending such slots to expert 0 with weight 0
would be wrong: its prologue for large batches takes an expert only once from each row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moe import guarded_buffers
from moe.experts.base import Experts

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing


class FlashInferCutlassExperts(Experts):
    """Needs a built module (see `flashinfer_probe`): without one the first call compiles it."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        # Imported here, as the functions below and planning need no FlashInfer.
        from flashinfer import fused_moe

        self._flashinfer: Any = fused_moe
        self._w13 = up_then_gate(weights.w13)
        self._w2 = weights.w2.contiguous()
        self._quant_scales = quant_scales(weights)

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        shape = (x.codes.shape[0], self.problem.hidden)
        out = guarded_buffers.empty(shape, dtype=self.dtype, device=x.codes.device)
        if shape[0] == 0 or self.num_local == 0:
            return out.zero_()  # the kernel aborts on an empty input
        topk_ids, topk_weights = kernel_routing(routing)
        self._flashinfer.cutlass_fused_moe(
            x.codes.contiguous(),
            topk_ids,
            topk_weights,
            self._w13,
            self._w2,
            self.dtype,
            quant_scales=self._quant_scales,
            output=out,
            # By name: the numbers moved between FlashInfer's versions.
            activation_type=self._flashinfer.ActivationType.Swiglu,
        )
        return out


def up_then_gate(w13: Tensor) -> Tensor:
    """w13: [e, 2n, K], [gate; up] -> a contiguous copy in the kernel's order, [up; gate]."""
    gate, up = w13.chunk(2, dim=1)
    return torch.cat((up, gate), dim=1)


def kernel_routing(routing: Routing) -> tuple[Tensor, Tensor]:
    """ids [T, k] int32 and weights [T, k] float32 as the kernel reads them.

    Weights of -1 slots become 0, so that whatever a padding slot holds cannot leak.
    """
    ids = routing.topk_ids.to(torch.int32).contiguous()
    weights = torch.where(ids < 0, 0.0, routing.topk_weights.to(torch.float32))
    return ids, weights.contiguous()


def quant_scales(weights: ExpertWeights) -> list[Tensor]:
    """The kernel's list of float32 scales; empty for weights in the model dtype.

    For fp8: [e] what turns the first product's sums into values; [] what the intermediate is
    multiplied by before it is rounded; [e] the same for the second product; [] the input's scale.

    Raises ValueError where a scale is missing or is not one per expert.
    """
    scales = (weights.w13_scale, weights.w2_scale, weights.a1_scale, weights.a2_scale)
    if all(scale is None for scale in scales):
        return []
    w13_scale, w2_scale, a1_scale, a2_scale = scales
    if w13_scale is None or w2_scale is None or a1_scale is None or a2_scale is None:
        raise ValueError(
            "flashinfer_cutlass takes no dynamic scales: give w13_scale, w2_scale, a1_scale and "
            "a2_scale, or none of them; quant fp8_tensor has all four"
        )
    if not weights.format.has_one_scale:
        name = weights.format.name
        raise ValueError(f"flashinfer_cutlass takes one weight scale per expert, not {name}")
    a1, a2 = a1_scale.float().reshape(()), a2_scale.float().reshape(())
    return [
        (w13_scale.float() * a1).contiguous(),
        a2.reciprocal(),
        (w2_scale.float() * a2).contiguous(),
        a1,
    ]
