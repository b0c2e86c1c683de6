"""Compute experts by vLLM's Triton kernel, with vLLM's own steps around it.

align -> first product -> f(gate) * up -> quantize -> second product, weighted -> sum. The router
weight multiplies the second product in float32, before its only rounding, so that there is no
unweighted output to hand out: the stage is `weighted`.

Slots of other ranks' experts get the id of one more expert, which the expert map sends to -1: so
vLLM's expert parallelism marks them. Their rows are not computed; only where one scale spans all
rows, the kernel fills them with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from moe import guarded_buffers, intermediates
from moe.experts.base import Experts
from moe.formats import FORMATS
from moe.types import Activations

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.quant_tensor import QuantTensor
    from moe.types import ExpertWeights, Routing


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Hold the arguments that both products share: tokens, ids [T, k], and their alignment."""

    ids: Tensor
    weights: Tensor
    config: dict[str, Any]
    aligned: tuple[Tensor, Tensor, Tensor]


class VllmTritonExperts(Experts):
    """Call vLLM's kernel and operators, one after the other."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep the weights as they are: [gate; up], and scales as multipliers, are vLLM's own."""
        import triton.language as tl
        from vllm import _custom_ops
        from vllm.model_executor.layers.fused_moe import activation, fused_moe, utils
        from vllm.model_executor.layers.fused_moe.moe_align_block_size import moe_align_block_size

        self._align: Any = moe_align_block_size
        self._fused_moe: Any = fused_moe
        self._activate: Any = activation.apply_moe_activation
        self._function = activation.MoEActivation.from_str(self.layer_spec.activation)
        self._quantize: Any = utils.moe_kernel_quantize_input
        self._sum: Any = _custom_ops.moe_sum
        self._compute_type = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[self.dtype]
        self.weights = weights
        self.format = FORMATS[self.layer_spec.scheme.activations]
        self._is_fp8 = self.format.grid == "e4m3"
        self._is_int8 = self.format.grid == "int8"
        self._block = [128, 128] if self.format.name == "fp8_group" else None
        self._map = torch.arange(self.num_local + 1, dtype=torch.int32, device=weights.w13.device)
        self._map[-1] = -1

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        tokens, top_k = routing.topk_ids.shape
        out = self._empty(tokens, self.layer_spec.hidden)
        if tokens == 0 or self.num_local == 0:
            return out.zero_()
        slots, w = self._slots(routing), self.weights
        gate_up = self._empty(tokens, top_k, w.w13.shape[1])
        self._multiply(x, w.gate_up, gate_up, slots, weighted=False)
        h = self._empty(tokens * top_k, w.w2.shape[2])
        self._activate(self._function, h, gate_up.flatten(0, 1))
        second = self._second(h)
        y = self._empty(tokens, top_k, self.layer_spec.hidden)
        self._multiply(second, w.down, y, slots, weighted=True)
        self._sum(y, out, slots.ids, self._map)
        intermediates.keep("gemm1", gate_up.flatten(0, 1), copy=False)
        intermediates.keep("activation", h, copy=False)
        intermediates.keep("second", second.codes, copy=False)
        intermediates.keep("second_scale", second.scale, copy=False)
        intermediates.keep("weighted", y.flatten(0, 1), copy=False)
        return out

    def _empty(self, *shape: int) -> Tensor:
        return guarded_buffers.empty(shape, dtype=self.dtype, device=self.weights.w13.device)

    def _slots(self, routing: Routing) -> Slots:
        """Return the aligned slots, with the tiles that vLLM chooses for this number of tokens."""
        ids = routing.topk_ids.masked_fill(routing.topk_ids < 0, self.num_local)
        config = self._fused_moe.try_get_optimal_moe_config(
            *(self.weights.w13.shape, self.weights.w2.shape, ids.shape[1]),
            *("fp8_w8a8" if self._is_fp8 else None, ids.shape[0]),
            block_shape=self._block,
        )
        aligned = self._align(
            *(ids, config["BLOCK_SIZE_M"], self.num_local + 1, self._map),
            ignore_invalid_experts=self.format.name != "fp8_dynamic",
        )
        return Slots(
            ids=ids, weights=routing.topk_weights.contiguous(), config=config, aligned=aligned
        )

    def _multiply(
        self, x: Activations, w: QuantTensor, out: Tensor, slots: Slots, *, weighted: bool
    ) -> None:
        """Write each slot's product to out, [T, k, O]. x: [T, I], or [T * k, I] if weighted."""
        self._fused_moe.invoke_fused_moe_triton_kernel(
            *(x.codes.contiguous(), w.codes, out, x.scale, w.scale, slots.weights, *slots.aligned),
            mul_routed_weight=weighted,
            top_k=1 if weighted else slots.ids.shape[1],
            config=slots.config,
            compute_type=self._compute_type,
            use_fp8_w8a8=self._is_fp8,
            use_int8_w8a8=self._is_int8,
            use_int8_w8a16=False,
            use_int4_w4a16=False,
            per_channel_quant=self._is_int8,
            block_shape=self._block,
        )

    def _second(self, h: Tensor) -> Activations:
        """Return the second product's input, quantized by vLLM. h: [T * k, n]."""
        if self.format.block is None:
            return Activations(codes=h)
        scale = self.weights.a2_scale if self.format.static else None
        dtype = self.format.codec.dtype
        codes, scale = self._quantize(h, scale, dtype, self._is_int8, self._block)
        return Activations(codes=codes, scale=scale, format=self.format)
