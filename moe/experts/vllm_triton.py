"""Compute experts by vLLM's Triton kernel, with vLLM's own steps around it.

align -> first product -> f(gate) * up -> quantize -> second product, weighted -> sum. The router
weight multiplies the second product in float32, before its only rounding: no unweighted output
exists. Slots of other ranks' experts get the id of one more expert, which the expert map sends to
-1, as in vLLM's expert parallelism. Their rows stay uninitialised, or zero where all rows share a
dynamic scale. Scales of groups stay in float32, as the format has them: left to itself, vLLM rounds
them up to powers of two on a GPU for which its wheel has DeepGEMM.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from moe import guarded_buffers, intermediates
from moe.experts.base import Experts
from moe.formats import FORMATS
from moe.spec import DEFAULT_TACTIC
from moe.tuned_tiles import config_of
from moe.types import Activations

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.types import ExpertWeights, Routing


class VllmTritonExperts(Experts):
    """Call vLLM's kernel and operators, one after the other."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep the weights as they are: [gate; up], and scales as multipliers, are vLLM's own."""
        import triton.language as tl
        from vllm import _custom_ops
        from vllm.model_executor.layers.fused_moe import activation, fused_moe, utils
        from vllm.model_executor.layers.fused_moe.moe_align_block_size import moe_align_block_size
        from vllm.model_executor.layers.quantization.utils import fp8_utils

        self._align: Any = moe_align_block_size
        self._fused_moe: Any = fused_moe
        self._activate: Any = activation.apply_moe_activation
        self._function = activation.MoEActivation.from_str(self.layer_spec.activation)
        self._quantize: Any = utils.moe_kernel_quantize_input
        self._quantize_groups: Any = fp8_utils.per_token_group_quant_fp8
        self._sum: Any = _custom_ops.moe_sum
        self._compute_type = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[self.dtype]
        self.weights = weights
        self.format = FORMATS[self.layer_spec.scheme.activations]
        self._is_fp8, self._is_int8 = (self.format.grid == grid for grid in ("e4m3", "int8"))
        block = self.format.block or (None, None)
        self._block = [128, 128] if block == (1, 128) else None
        self._has_shared_scale = self.format.has_one_scale and not self.format.static
        self._is_per_token = block == (1, None)
        self._map = torch.arange(self.num_local + 1, dtype=torch.int32, device=weights.w13.device)
        self._map[-1] = -1

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        if (zeros := self.zeros_if_idle(x)) is not None:
            return zeros
        tokens, top_k = routing.topk_ids.shape
        out = self._empty(tokens, self.layer_spec.hidden)
        ids, w = routing.topk_ids.masked_fill(routing.topk_ids < 0, self.num_local), self.weights
        multiply = self._product(ids, routing.topk_weights.contiguous())
        gate_up = self._empty(tokens, top_k, w.w13.shape[1])
        operands = x.codes.contiguous(), w.w13, gate_up, x.scale, w.w13_scale
        multiply(*operands, mul_routed_weight=False, top_k=top_k)
        h = self._empty(tokens * top_k, w.w2.shape[2])
        self._activate(self._function, h, gate_up.flatten(0, 1))
        second = self._second(h)
        y = self._empty(tokens, top_k, self.layer_spec.hidden)
        operands = second.codes, w.w2, y, second.scale, w.w2_scale
        multiply(*operands, mul_routed_weight=True, top_k=1)
        self._sum(y, out, ids, self._map)
        stages = {"gemm1": gate_up.flatten(0, 1), "activation": h, "weighted": y.flatten(0, 1)}
        for name, value in {**stages, "second": second.codes, "second_scale": second.scale}.items():
            intermediates.keep(name, value, copy=False)
        return out

    def _empty(self, *shape: int) -> Tensor:
        return guarded_buffers.empty(shape, dtype=self.dtype, device=self.weights.w13.device)

    def _product(self, ids: Tensor, weights: Tensor) -> Callable[..., None]:
        """Return vLLM's product of these slots.

        ids, weights: [T, k]. The product takes A, B, C and the scales of A and B.
        """
        config = self._config(*ids.shape)
        rows, experts, count = self._align(
            *(ids, config["BLOCK_SIZE_M"], self.num_local + 1, self._map),
            ignore_invalid_experts=not self._has_shared_scale,
        )
        return partial(
            self._fused_moe.invoke_fused_moe_triton_kernel,
            topk_weights=weights,
            sorted_token_ids=rows,
            expert_ids=experts,
            num_tokens_post_padded=count,
            config=config,
            compute_type=self._compute_type,
            use_fp8_w8a8=self._is_fp8,
            use_int8_w8a8=self._is_int8,
            per_channel_quant=self._is_per_token,
            block_shape=self._block,
            **dict.fromkeys(("use_int8_w8a16", "use_int4_w4a16"), False),
        )

    def _config(self, tokens: int, top_k: int) -> dict[str, int]:
        """Return the tile of the layer's tactic, or the one that vLLM chooses."""
        if self.layer_spec.tactic != DEFAULT_TACTIC:
            return config_of(self.layer_spec.tactic)
        config: dict[str, int] = self._fused_moe.try_get_optimal_moe_config(
            *(self.weights.w13.shape, self.weights.w2.shape, top_k),
            *("fp8_w8a8" if self._is_fp8 else None, tokens),
            block_shape=self._block,
        )
        return config

    def _second(self, h: Tensor) -> Activations:
        """Return the second product's input, quantized by vLLM. h: [T * k, n]."""
        if self.format.block is None:
            return Activations(codes=h)
        if self._block is not None:
            codes, scale = self._quantize_groups(h, self._block[1], use_ue8m0=False)
        else:
            given = self.weights.a2_scale if self.format.static else None
            codes, scale = self._quantize(h, given, self.format.codec.dtype, self._is_per_token)
        return Activations(codes=codes, scale=scale, format=self.format)
