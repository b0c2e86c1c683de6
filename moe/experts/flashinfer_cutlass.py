"""Compute experts by FlashInfer's CUTLASS fused MoE: bf16, static fp8, and fp4 by chip.

One call does the alignment, both products, the activation and the weighted sum. It is always called
as a layer of this rank's experts only (`ep_size=1`) with local ids, because the layer's placement
decides which experts are on this rank, and not the kernel's own even split.

The kernel treats an id outside of `[0, e)` as an expert of another rank and drops the slot before
the products, so -1 is passed unchanged. Mapping such slots to expert 0 with weight 0 would be
wrong: the kernel's prologue for large batches takes an expert only once from each row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from moe import guarded_buffers
from moe.experts.base import Experts
from moe.flashinfer_arguments import cutlass_arguments
from moe.formats import FORMATS

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing


class FlashInferCutlassExperts(Experts):
    """Call FlashInfer's kernel. Without a built module (`flashinfer_probe`) it first compiles."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep copies in the kernel's order. Raises MoEError as `cutlass_arguments` does."""
        # Imported on use: planning, and the conversions, work without FlashInfer.
        from flashinfer import fused_moe

        self._flashinfer: Any = fused_moe
        arguments = cutlass_arguments(weights, FORMATS[self.layer_spec.scheme.activations])
        if arguments.interleaves:  # in an order for Hopper's mixed products that only a GPU makes
            order = fused_moe.interleave_moe_weights_for_sm90_mixed_gemm
            arguments = replace(arguments, w13=order(arguments.w13), w2=order(arguments.w2))
        self._weights = arguments

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        if (zeros := self.zeros_if_idle(x)) is not None:
            return zeros  # the kernel aborts on an empty input
        shape = (x.codes.shape[0], self.layer_spec.hidden)
        out = guarded_buffers.empty(shape, dtype=self.dtype, device=x.codes.device)
        topk_ids, topk_weights = kernel_routing(routing)
        self._flashinfer.cutlass_fused_moe(
            x.codes.contiguous(),
            topk_ids,
            topk_weights,
            self._weights.w13,
            self._weights.w2,
            self.dtype,
            quant_scales=self._weights.scales,
            # Scales of groups of the input; one of the whole input is among the others.
            input_sf=x.scale if x.format.has_row_scales else None,
            **self._weights.options,
            output=out,
            # By name: the enum's numbers differ between FlashInfer versions.
            activation_type=self._flashinfer.ActivationType.Swiglu,
        )
        return out


def kernel_routing(routing: Routing) -> tuple[Tensor, Tensor]:
    """Return ids [T, k] int32 and weights [T, k] float32, contiguous, as the kernel reads them.

    Weights of -1 slots become 0, so that the weight of a padding slot (NaN, say) has no effect.
    """
    ids = routing.topk_ids.to(torch.int32).contiguous()
    weights = torch.where(ids < 0, 0.0, routing.topk_weights.to(torch.float32))
    return ids, weights.contiguous()
