"""Compute experts by FlashInfer's TensorRT-LLM kernels on Blackwell: bf16, fp8 in blocks, fp4.

Monolithic: the kernel gets router logits and the layer's routing method, by the name of its enum.
Modular (`routed`): it gets each slot's expert and weight in one integer. Both are called with
global ids and the range of this rank's experts, which therefore must be contiguous.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moe.conversions import (
    block_major,
    halves_swapped,
    interleaved,
    packed_routing,
    shuffled_rows,
)
from moe.errors import MoEError
from moe.experts.base import Experts, ExpertsBase, MonolithicExperts
from moe.flashinfer_arguments import trtllm_fp4_arguments
from moe.formats import FORMATS
from moe.released_kernels import method_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.types import Activations, ExpertWeights, Routing

_BLOCK_BYTES = 128  # of a row that a block of the layout BlockMajorK holds
_BLOCK = 128  # of `fp8_block`
_FUNCTIONS = {  # without "_moe" or "_routed_moe"
    "bf16": "trtllm_bf16",
    "fp8": "trtllm_fp8_block_scale",
    "fp4": "trtllm_fp4_block_scale",
}
ROUTED = "Unspecified"  # the routing method of a layer that none of the kernels computes


class _Trtllm(ExpertsBase):
    """Convert weights and name the arguments, for both forms of the kernels."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep copies in the kernel's order. Raises MoEError for experts that are not in a row."""
        from flashinfer import tllm_enums
        from flashinfer.fused_moe import core

        self._core: Any = core
        self._enums: Any = tllm_enums
        made: dict[str, Callable[[ExpertWeights], dict[str, Any]]] = {
            "bf16": bf16_arguments,
            "fp8": fp8_arguments,
            "fp4": trtllm_fp4_arguments,
        }
        self._weights = made[self.kind](weights)
        self._first = first_expert(self.layer_spec.experts_of(self.rank))

    @property
    def kind(self) -> str:
        """Return which kernel it is: `bf16`, `fp8` in blocks, or `fp4` weights."""
        weights = FORMATS[self.layer_spec.scheme.weights].grid
        return {"model": "bf16", "e4m3": "fp8", "e2m1": "fp4"}[weights]

    def _arguments(self, x: Activations) -> dict[str, Any]:
        """Return the keyword arguments of both forms; x: [T, K] in bf16, or codes with scales."""
        spec, enums = self.layer_spec, self._enums
        method = spec.routing_method
        intermediate = spec.layout.intermediate_of(self.rank, spec.intermediate)
        arguments = {
            "hidden_states": x.codes.contiguous(),
            **self._weights,
            "num_experts": spec.num_experts,
            "top_k": method.top_k,
            "n_group": None,
            "topk_group": None,
            "intermediate_size": len(intermediate),
            "local_expert_offset": self._first,
            "local_num_experts": self.num_local,
            "routed_scaling_factor": None,
            # Of no enum a number, which differs between versions.
            "routing_method_type": enums.RoutingMethodType[method_name(method) or ROUTED].value,
            "activation_type": enums.ActivationType["Swiglu"].value,
        }
        options = {"bf16": self._bf16_options, "fp8": self._fp8_options, "fp4": self._fp4_options}
        return arguments | options[self.kind](x)

    def _bf16_options(self, x: Activations) -> dict[str, Any]:
        del x
        layout = self._enums.WeightLayout["BlockMajorK"].value
        return {"use_shuffled_weight": True, "weight_layout": layout}

    def _fp8_options(self, x: Activations) -> dict[str, Any]:
        assert x.scale is not None, "fp8_group codes have scales"
        return {
            "use_shuffled_weight": False,
            "weight_layout": self._enums.WeightLayout["MajorK"].value,
            "intermediate_size": self._weights["gemm2_weights"].shape[-1],
            "hidden_states_scale": x.scale.t().contiguous(),  # [K / 128, T]
            "fp8_quantization_type": self._enums.Fp8QuantizationType["DeepSeekFp8"],
        }

    def _fp4_options(self, x: Activations) -> dict[str, Any]:
        scale = None if x.scale is None else x.scale.contiguous().view(torch.float8_e4m3fn)
        return {
            "intermediate_size": 2 * self._weights["gemm2_weights"].shape[-1],
            "hidden_states_scale": scale,  # [T, K / 32] e8m0 or [T, K / 16] e4m3, as bytes
        }

    def _called(self, function: str, x: Activations, routing: dict[str, Any]) -> Tensor:
        """Return [T, K] of a kernel; zeros where there is nothing to compute."""
        if (zeros := self.zeros_if_idle(x)) is not None:
            return zeros
        out = getattr(self._core, function)(**self._arguments(x) | routing)
        result: Tensor = out[0] if isinstance(out, list | tuple) else out
        return result


class FlashInferTrtllmExperts(_Trtllm, MonolithicExperts):
    """Pass the router logits on, with the layer's routing method."""

    def apply(self, x: Activations, logits: Tensor) -> Tensor:
        return self._called(f"{_FUNCTIONS[self.kind]}_moe", x, self._routing(logits))

    def _routing(self, logits: Tensor) -> dict[str, Any]:
        """Return the arguments by which the kernel routes, all of the layer's own method."""
        method, bias = self.layer_spec.routing_method, self.router_bias
        name = method_name(method)
        if name is None:
            raise MoEError(f"FlashInfer's kernels have no routing method for {method}")
        groups = {"n_group": method.groups, "topk_group": method.chosen_groups}
        return {
            **(groups if name == "DeepSeekV3" else {}),
            "routing_logits": logits.float() if name == "DeepSeekV3" else logits,
            "routing_bias": None if bias is None else bias.to(torch.bfloat16),
            "routed_scaling_factor": method.scale if method.scale != 1.0 else None,
            "norm_topk_prob": method.renormalize,
        }


class FlashInferTrtllmRoutedExperts(_Trtllm, Experts):
    """Pass the layer's own routing on, packed."""

    def apply(self, x: Activations, routing: Routing) -> Tensor:
        packed = global_routing(routing, self._first, self.num_local, self.layer_spec.num_experts)
        bias = {} if self.kind == "bf16" else {"routing_bias": None}
        name = f"{_FUNCTIONS[self.kind]}_routed_moe"
        return self._called(name, x, {"topk_ids": packed, **bias})


def first_expert(experts: tuple[int, ...]) -> int:
    """Return the first of this rank's experts. Raises MoEError if they are not in a row."""
    if experts != tuple(range(experts[0] if experts else 0, (experts[-1] if experts else -1) + 1)):
        raise MoEError(
            f"the rank holds experts {experts}, and the kernel takes a range; place experts "
            "linearly, or choose another backend"
        )
    return experts[0] if experts else 0


def bf16_arguments(weights: ExpertWeights) -> dict[str, Tensor]:
    """Return weights as the kernel's layout BlockMajorK, shuffled, [e, C / 64, R, 64] bf16.

    w13 is [up; gate], its rows interleaved, before it is shuffled.
    """
    up_first = interleaved(halves_swapped(weights.w13))
    pairs = {"gemm1_weights": up_first, "gemm2_weights": weights.w2}
    return {
        name: block_major(shuffled_rows(w), _BLOCK_BYTES // w.element_size())
        for name, w in pairs.items()
    }


def fp8_arguments(weights: ExpertWeights) -> dict[str, Tensor]:
    """Return codes and scales, w13 and its scales as [up; gate], in rows as they are stored.

    Raises MoEError if a scale is missing.
    """
    if weights.w13_scale is None or weights.w2_scale is None:
        raise MoEError("w13_scale or w2_scale is None: use quant fp8_block, which makes both")
    if weights.w13.shape[1] % (2 * _BLOCK):
        raise MoEError(
            f"gate and up of {weights.w13.shape[1] // 2} rows share a block of {_BLOCK}; choose an "
            f"intermediate size per rank that is a multiple of {_BLOCK}"
        )
    return {
        "gemm1_weights": halves_swapped(weights.w13),
        "gemm1_weights_scale": halves_swapped(weights.w13_scale),
        "gemm2_weights": weights.w2.contiguous(),
        "gemm2_weights_scale": weights.w2_scale.contiguous(),
    }


def global_routing(routing: Routing, first: int, num_local: int, num_experts: int) -> Tensor:
    """Return packed global ids and weights, [T, k] int32, of local ids; -1 has no effect.

    A slot without an expert here gets an expert of another rank, which the kernel leaves out, or,
    if there is none, the first one with a weight of 0.
    """
    absent = routing.topk_ids < 0
    elsewhere = (first + num_local) % num_experts
    ids = torch.where(absent, elsewhere, routing.topk_ids + first)
    return packed_routing(ids, torch.where(absent, 0.0, routing.topk_weights))
