"""Compute experts by Marlin's kernels in vLLM: weights of few bits, 16-bit activations.

One call does the alignment, both products, the activation and the weighted sum. A weight is
dequantized in registers: its scale, which is kept in the layer's dtype, times the code, rounded to
the layer's dtype. Each expert's output is rounded, multiplied by the rounded router weight, and
rounded again. As for `vllm_triton`, slots of other ranks' experts get the id of one more expert,
which the expert map sends to -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from moe import guarded_buffers, intermediates, marlin_layout
from moe.errors import MoEError
from moe.experts.base import Experts
from moe.formats.nibbles import unpack

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.quant_tensor import QuantTensor
    from moe.types import Activations, ExpertWeights, Routing

# Grid of the weights -> Marlin's name of its type, and its bits.
_TYPES = {"int4": ("uint4b8", 4), "uint4": ("uint4", 4), "int8": ("uint8b128", 8)}
_TYPES |= {"e2m1": ("float4_e2m1f", 4)}


@dataclass(frozen=True, kw_only=True)
class MarlinWeights:
    """Hold a matrix of each expert as Marlin reads it.

    tiles: [e, I / 16, O * bits / 2] int32. scales: [e, G, O] in the layer's dtype, or e8m0. zeros:
    [e, G, O / 8] int32, or None.
    """

    tiles: Tensor
    scales: Tensor
    zeros: Tensor | None


class MarlinExperts(Experts):
    """Convert weights once, and call vLLM's fused function."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep copies in Marlin's order. Raises MoEError as `marlin_weights` does."""
        from vllm.model_executor.layers.fused_moe import activation
        from vllm.model_executor.layers.fused_moe.experts.marlin_moe import fused_marlin_moe
        from vllm.scalar_type import scalar_types

        self._fused: Any = fused_marlin_moe
        self._function = activation.MoEActivation.from_str(self.layer_spec.activation)
        self._type = getattr(scalar_types, _TYPES[weights.format.grid][0]).id
        self._w13 = marlin_weights(weights.gate_up, self.dtype)
        self._w2 = marlin_weights(weights.down, self.dtype)
        self._rows = weights.w13.shape[1]  # 2n
        self._map = torch.arange(self.num_local + 1, dtype=torch.int32, device=weights.w13.device)
        self._map[-1] = -1

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        if (zeros := self.zeros_if_idle(x)) is not None:
            return zeros
        tokens, top_k = routing.topk_ids.shape
        hidden = self.layer_spec.hidden
        out = self._empty(tokens, hidden)
        ids = routing.topk_ids.masked_fill(routing.topk_ids < 0, self.num_local)
        products = self._empty(tokens * top_k * max(self._rows, hidden))
        h = self._empty(tokens * top_k, self._rows // 2)
        w13, w2 = self._w13, self._w2
        self._fused(
            *(x.codes.contiguous(), w13.tiles, w2.tiles, None, None, w13.scales, w2.scales),
            *(routing.topk_weights.float().contiguous(), ids, self._type),
            global_num_experts=self.num_local + 1,
            activation=self._function,
            expert_map=self._map,
            w1_zeros=w13.zeros,
            w2_zeros=w2.zeros,
            intermediate_cache13=products,
            intermediate_cache2=h,
            output=out,
        )
        intermediates.keep("activation", h, copy=False)
        weighted = products[: tokens * top_k * hidden].view(tokens * top_k, hidden)
        intermediates.keep("weighted", weighted, copy=False)
        return out

    def _empty(self, *shape: int) -> Tensor:
        return guarded_buffers.empty(shape, dtype=self.dtype, device=self._map.device)


def marlin_weights(weights: QuantTensor, dtype: torch.dtype) -> MarlinWeights:
    """Return the weights [e, O, I] of groups of a row, in Marlin's order.

    dtype: the layer's, to which float32 scales are rounded. Raises MoEError for formats that Marlin
    does not have, and where a row is a single group.
    """
    fmt, scale = weights.format, weights.scale
    if fmt.grid not in _TYPES or scale is None or fmt.group is None:
        raise MoEError(
            f"Marlin has no weights of format {fmt.name!r}; choose a quant with groups of int4, "
            "symmetric int8 or mxfp4"
        )
    if scale.shape[2] < 2:
        raise MoEError(
            f"rows of {weights.shape[2]} are one group of {fmt.name}, whose scale Marlin reads in "
            "another order; choose smaller groups"
        )
    bits = _TYPES[fmt.grid][1]
    zeros = weights.zero_point
    return MarlinWeights(
        tiles=marlin_layout.tiled(_codes(weights, bits), bits),
        scales=_scales(scale, dtype),
        zeros=None if zeros is None else marlin_layout.zero_points_by_group(zeros),
    )


def _codes(weights: QuantTensor, bits: int) -> Tensor:
    """Return [e, O, I] uint8 codes, of which those of symmetric int8 begin at 0, too."""
    if bits == 4:
        return unpack(weights.codes)
    return weights.codes.view(torch.uint8) ^ 0x80


def _scales(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return scales [e, O, G] as [e, G, O]; e8m0, which is held as uint8, stays what it is."""
    if scale.dtype == torch.uint8:
        return marlin_layout.powers_by_group(scale).view(torch.float8_e8m0fnu)
    return marlin_layout.scales_by_group(scale.to(dtype))
