"""Compute experts by FlashInfer's CUTLASS fused MoE on Hopper: bf16, and fp8 with static scales.

One call does the alignment, both products, the activation and the weighted sum. It is always called
as a layer of this rank's experts only (`ep_size=1`) with local ids, because the layer's placement
decides which experts are on this rank, and not the kernel's own even split.

The kernel treats an id outside of `[0, e)` as an expert of another rank and drops the slot before
the products, so -1 is passed unchanged. Mapping such slots to expert 0 with weight 0 would be
wrong: the kernel's prologue for large batches takes an expert only once from each row.
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
    """Call FlashInfer's kernel. Without a built module (`flashinfer_probe`) it first compiles."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep copies in the kernel's order. Raises ValueError as `quant_scales` does."""
        # Imported on use: the functions below, and planning, work without FlashInfer.
        from flashinfer import fused_moe

        self._flashinfer: Any = fused_moe
        self._w13 = up_then_gate(weights.w13)
        self._w2 = weights.w2.contiguous()
        self._quant_scales = quant_scales(weights)

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        shape = (x.codes.shape[0], self.layer_spec.hidden)
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
            # By name: the enum's numbers differ between FlashInfer versions.
            activation_type=self._flashinfer.ActivationType.Swiglu,
        )
        return out


def up_then_gate(w13: Tensor) -> Tensor:
    """Return w13 [e, 2n, K] of order [gate; up] as a contiguous copy in the order [up; gate]."""
    gate, up = w13.chunk(2, dim=1)
    return torch.cat((up, gate), dim=1)


def kernel_routing(routing: Routing) -> tuple[Tensor, Tensor]:
    """Return ids [T, k] int32 and weights [T, k] float32, contiguous, as the kernel reads them.

    Weights of -1 slots become 0, so that the weight of a padding slot (NaN, say) has no effect.
    """
    ids = routing.topk_ids.to(torch.int32).contiguous()
    weights = torch.where(ids < 0, 0.0, routing.topk_weights.to(torch.float32))
    return ids, weights.contiguous()


def quant_scales(weights: ExpertWeights) -> list[Tensor]:
    """Return the kernel's list of float32 scales; empty for weights in the model dtype.

    For fp8: [e] multiplier of the first product's sums; [] multiplier of the intermediate before
    it is rounded; [e] multiplier of the second product's sums; [] scale of the input.

    Raises ValueError if a scale is missing or is not one per expert.
    """
    scales = (weights.w13_scale, weights.w2_scale, weights.a1_scale, weights.a2_scale)
    if all(scale is None for scale in scales):
        return []
    w13_scale, w2_scale, a1_scale, a2_scale = scales
    if w13_scale is None or w2_scale is None or a1_scale is None or a2_scale is None:
        raise ValueError(
            "flashinfer_cutlass does not take dynamic scales: pass w13_scale, w2_scale, a1_scale "
            "and a2_scale, or none of them; quant fp8_tensor has all four"
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
