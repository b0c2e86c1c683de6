"""Compute experts by the Triton kernel of vLLM or of SGLang, on a GPU or interpreted.

align -> first product -> f(gate) * up -> quantize -> second product, weighted -> sum. Only the
products, and SGLang's sum, are the package's: the rest of it is compiled for CUDA, and needs no
more than a few lines of torch. The router weight multiplies the second product in float32, before
its only rounding: no unweighted output exists.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from moe import guarded_buffers, intermediates
from moe.experts.base import Experts
from moe.formats import FORMATS
from moe.kernels.launch import launching_released
from moe.spec import DEFAULT_TACTIC
from moe.tuned_tiles import config_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.formats.quant_tensor import QuantTensor
    from moe.types import Activations, ExpertWeights, Routing

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu2": lambda x: functional.relu(x).square(),
}


class FusedMoE(Experts):
    """Hold the weights as they are: [gate; up], and scales as multipliers, are the kernel's own."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep the weights, and what the kernel is told of their format."""
        import triton.language as tl

        self.weights = weights
        self.format = FORMATS[self.layer_spec.scheme.activations]
        self.is_fp8, self.is_int8 = (self.format.grid == grid for grid in ("e4m3", "int8"))
        self.block = [128, 128] if self.format.block == (1, 128) else None
        types = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
        self.flags: dict[str, Any] = {
            "use_fp8_w8a8": self.is_fp8,
            "use_int8_w8a8": self.is_int8,
            "per_channel_quant": self.format.block == (1, None),
            "block_shape": self.block,
            "compute_type": types[self.dtype],
            **dict.fromkeys(("use_int8_w8a16", "use_int4_w4a16"), False),
        }
        self.function = _FUNCTIONS[self.layer_spec.activation.removesuffix("_no_mul")]

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        if (zeros := self.zeros_if_idle(x)) is not None:
            return zeros
        tokens, top_k = routing.topk_ids.shape
        out = self.empty(tokens, self.layer_spec.hidden)
        w, kernel = self.weights, self.prepared(routing)
        gate_up = self.empty(tokens, top_k, w.w13.shape[1])
        first = {"bias": w.b13, "C": gate_up, "top_k": top_k, "mul_routed_weight": False}
        with launching_released(out.device):
            self.call(kernel, x, w.gate_up, **first)
        h = self.activated(gate_up.flatten(0, 1))
        second = self.quant.quantize_intermediate(h, w.a2_scale)
        y = self.empty(tokens, top_k, self.layer_spec.hidden)
        if self.skips_absent_experts:
            y.zero_()
        last = {"bias": w.b2, "C": y, "top_k": 1, "mul_routed_weight": True}
        with launching_released(out.device):
            self.call(kernel, second, w.down, **last)
        stages = {"gemm1": gate_up.flatten(0, 1), "activation": h, "weighted": y.flatten(0, 1)}
        for name, value in {**stages, "second": second.codes, "second_scale": second.scale}.items():
            intermediates.keep(name, value, copy=False)
        return self.summed(y, out)

    def activated(self, product: Tensor) -> Tensor:
        """Return f(gate) * up [R, n], each rounded, as both packages do without a kernel."""
        if not self.gated:
            return self.function(product)
        gate, up = product.chunk(2, dim=1)
        return self.function(gate) * up

    def empty(self, *shape: int) -> Tensor:
        """Return an uninitialised tensor of the layer's dtype."""
        return guarded_buffers.empty(shape, dtype=self.dtype, device=self.weights.w13.device)

    def config(self, tokens: int, top_k: int) -> dict[str, int]:
        """Return the tile of the layer's tactic, or the package's default for this many tokens."""
        if self.layer_spec.tactic != DEFAULT_TACTIC:
            return config_of(self.layer_spec.tactic)
        sizes = self.num_local, self.weights.w2.shape[2], self.weights.w13.shape[2], top_k
        return self.default_config(tokens, *sizes, "fp8_w8a8" if self.is_fp8 else None)

    skips_absent_experts: bool  # whether rows of other ranks' experts stay as they were

    @abstractmethod
    def default_config(self, *sizes: Any) -> dict[str, int]:
        """Return the package's default. sizes: tokens, experts, n, K, top_k, and its dtype."""

    def prepared(self, routing: Routing) -> Callable[..., None]:
        """Return the package's launch of a product, told which experts are chosen."""
        config, ids = self.config(*routing.topk_ids.shape), routing.topk_ids.contiguous()
        launch, (rows, experts, count) = self.assigned(ids, config)
        return partial(
            launch,
            topk_weights=routing.topk_weights.contiguous(),
            sorted_token_ids=rows,
            expert_ids=experts,
            num_tokens_post_padded=count,
            config=config,
            **self.flags,
        )

    @abstractmethod
    def assigned(self, ids: Tensor, config: dict[str, int]) -> tuple[Callable[..., None], Any]:
        """Return the package's launch, and its rows, experts and number of rows for ids [T, k]."""

    @abstractmethod
    def call(
        self, kernel: Callable[..., None], x: Activations, w: QuantTensor, **more: Any
    ) -> None:
        """Launch a product. more: bias, C, top_k, mul_routed_weight, as the packages name them."""

    @abstractmethod
    def summed(self, y: Tensor, out: Tensor) -> Tensor:
        """Return `out` [T, K] with the sum of the slots of y [T, k, K]."""


class VllmFusedMoE(FusedMoE):
    """Call vLLM's `invoke_fused_moe_triton_kernel`; without a GPU as on a Hopper."""

    skips_absent_experts = True

    def default_config(self, *sizes: Any) -> dict[str, int]:
        from moe import vllm_kernels

        config: dict[str, int] = vllm_kernels.default_config(*sizes, self.block)
        return config

    def assigned(self, ids: Tensor, config: dict[str, int]) -> tuple[Callable[..., None], Any]:
        from moe import vllm_kernels

        return vllm_kernels.product, vllm_kernels.assignment(ids, config, self.num_local)

    def call(
        self, kernel: Callable[..., None], x: Activations, w: QuantTensor, **more: Any
    ) -> None:
        scales = {"A_scale": x.scale, "B_scale": w.scale, "B_bias": more.pop("bias")}
        kernel(A=x.codes.contiguous(), B=w.codes, **scales, **more)

    def summed(self, y: Tensor, out: Tensor) -> Tensor:
        return out.copy_(y.float().sum(dim=1))  # vLLM's own is compiled for CUDA


class SglangFusedMoE(FusedMoE):
    """Call SGLang's `invoke_fused_moe_kernel` and its sum."""

    skips_absent_experts = False

    def default_config(self, *sizes: Any) -> dict[str, int]:
        from moe import sglang_kernels

        config: dict[str, int] = sglang_kernels.default_config(*sizes, False, self.block)
        return config

    def assigned(self, ids: Tensor, config: dict[str, int]) -> tuple[Callable[..., None], Any]:
        from moe import sglang_kernels

        launch = partial(sglang_kernels.product, B_zp=None, topk_ids=ids)
        return launch, sglang_kernels.assignment(ids, config["BLOCK_SIZE_M"], self.num_local)

    def call(
        self, kernel: Callable[..., None], x: Activations, w: QuantTensor, **more: Any
    ) -> None:
        codes = x.codes.contiguous()
        given = (codes, x.scale) if self.is_int8 else codes  # see `moe.sglang_kernels`
        kernel(A=given, B=w.codes, A_scale=x.scale, B_scale=w.scale, **more)

    def summed(self, y: Tensor, out: Tensor) -> Tensor:
        from moe import sglang_kernels

        with launching_released(out.device):
            sglang_kernels.sum_of_slots(y, out, 1.0)
        return out
