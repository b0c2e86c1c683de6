"""Mistakes in quantization: scales in the wrong place, left out, twice, or of something else."""

from __future__ import annotations

import torch

from moe.experts import torch_loop, triton_steps
from moe.experts import triton as triton_experts
from moe.experts.torch_loop import TorchLoopExperts
from moe.quant.base import QuantMethod
from moe.quant.fp8_block import Fp8Block
from moe.quant.fp8_tensor import Fp8TensorDynamic
from moe.types import Activations
from tests.mistakes.mistake import around, mistake

SQUARE = {"quant": "fp8_block", "n": 256, "k": 512}
EP = {"dp_size": 2, "use_ep": True}


def scaled(patch, change, owner=TorchLoopExperts):
    """Hand a backend other scales: `change(weights) -> weights`."""
    around(patch, owner, "prepare_weights", lambda real, self, w: real(self, change(w)))


@mistake("layout of scales", "FI #3334", "w13_scale_transposed", **SQUARE)
def block_scales_transposed(patch):
    scaled(patch, lambda w: w.replace(w13_scale=w.w13_scale.transpose(1, 2).contiguous()))


@mistake("layout of scales", "FI #3334", "scale_shifted", **SQUARE)
def block_scales_shifted_by_one(patch):
    scaled(patch, lambda w: w.replace(w13_scale=w.w13_scale.roll(1, 2)))


@mistake(
    "layout of scales",
    "TRT-LLM #11817",
    "w2_scale_transposed",
    quant="fp8_block",
    n=256,
    k=256,
    num_experts=2,
)
def block_scales_of_the_second_product_transposed(patch):
    scaled(patch, lambda w: w.replace(w2_scale=w.w2_scale.transpose(1, 2).contiguous()))


@mistake("scale left out", "TRT-LLM #11817", "w2_scale_missing", quant="int8_channel")
def second_weight_scale_left_out(patch):
    scaled(patch, lambda w: w.replace(w2_scale=torch.ones_like(w.w2_scale)))


@mistake("scale twice", "vLLM #45037", "w2_scale_twice", quant="fp8_tensor")
def second_weight_scale_applied_twice(patch):
    scaled(patch, lambda w: w.replace(w2_scale=w.w2_scale.square()))


@mistake("scale of another expert", "SGLang #13715", "scale_shifted_back", quant="fp8_tensor")
def scales_stay_when_experts_move(patch):
    scaled(patch, lambda w: w.replace(w13_scale=w.w13_scale.roll(1, 0)))


@mistake("scale of another expert", "SGLang #13715", "w2_scale_of_first_expert", quant="fp8_tensor")
def first_expert_s_scale_for_all(patch):
    scaled(patch, lambda w: w.replace(w2_scale=w.w2_scale[:1].expand_as(w.w2_scale)))


@mistake("scale of another product", "FI #3755", "second_scale_from_input", quant="fp8_tensor")
def static_scale_of_the_first_product_for_the_second(patch):
    scaled(patch, lambda w: w.replace(a2_scale=w.a1_scale))


@mistake("scales of gate and up", "SGLang #32430", "up_scale_from_gate", quant="int8_channel")
def scales_of_gate_for_up(patch):
    def gate_s(w):
        gate, _ = w.w13_scale.chunk(2, dim=1)
        return w.replace(w13_scale=torch.cat([gate, gate], dim=1))

    scaled(patch, gate_s)


@mistake("quantization left out", "FI #2882", "second_unquantized", quant="fp8_tensor")
def second_quantization_skipped(patch):
    around(
        patch, QuantMethod, "quantize_intermediate", lambda real, self, h, s: Activations(codes=h)
    )


@mistake("quantization left out", "FI #2882", "activations_unquantized", quant="fp8_block", n=128)
def quantization_of_activations_skipped(patch):
    patch.setattr(Fp8Block, "quantize_input", lambda self, x, s: Activations(codes=x))


@mistake("quantization left out", "FI #2882", "second_unquantized", quant="int8_channel")
def second_quantization_skipped_int8(patch):
    around(
        patch, QuantMethod, "quantize_intermediate", lambda real, self, h, s: Activations(codes=h)
    )


@mistake("scales of other rows", "FI #3650", "which_inputs", quant="int8_channel")
def token_scales_shifted_by_a_row(patch):
    def dequantized(real, x):
        return real(x.replace(scale=x.scale.roll(1, 0)))

    around(patch, torch_loop, "dequantize_activations", dequantized)


@mistake(
    "scale padding not set",
    "vLLM #38148",
    "says:never written, or computed from NaN",
    quant="fp8_block",
    n=128,
    k=192,
)
def scale_of_the_last_part_of_a_block_never_set(patch):
    def quantized(real, self, x, s):
        found = real(self, x, s)
        scale = found.scale.clone()
        if x.shape[1] % 128:
            scale[:, -1] = float("nan")
        return found.replace(scale=scale)

    around(patch, Fp8Block, "quantize_input", quantized)


@mistake(
    "scale over the wrong rows", "TRT-LLM #4930", "code_scales", quant="fp8_tensor_dynamic", **EP
)
def dynamic_scale_of_each_rank_alone(patch):
    patch.setattr(Fp8TensorDynamic, "input_scale_is_local", True)


@mistake(
    "scale over the wrong rows",
    "vLLM #49747",
    "second_scale_of_all_rows",
    quant="int8_channel",
    experts="triton",
    m=4,
)
def one_scale_for_all_tokens_in_a_kernel(patch):
    def together(real, h, kind, group):
        scale = h.float().abs().amax() / 127
        return (h.float() / scale).round().to(torch.int8), scale.expand(len(h), 1).contiguous()

    around(patch, triton_steps, "quantize_rows", together)
    patch.setattr(triton_steps.TritonSteps, "_is_fused", lambda self: False)


@mistake(
    "scale left out",
    "TRT-LLM #11817",
    "input_scale_missing",
    quant="fp8_tensor",
    experts="triton",
    m=4,
)
def kernel_ignores_the_scale_of_the_input(patch):
    """Only the first product's, so that the second is consistently wrong."""
    first = []

    def product(real, x, w, aligned, **how):
        first.append(x)
        scale = torch.ones_like(x.scale) if len(first) % 2 else x.scale
        return real(x.replace(scale=scale), w, aligned, **how)

    around(patch, triton_experts, "grouped_gemm", product)
