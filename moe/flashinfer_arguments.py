"""Make what FlashInfer's kernels take of quantized weights: matrices, scales, and flags.

Of all of them the first half of w13 is up, the second gate. Scales of fp4 weights lie in tiles of
128 rows and 4 groups on Blackwell; Hopper's mixed products of mxfp4 and bf16 take them by four.
A global scale divides here and multiplies there, so that its reciprocal is passed on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from moe.conversions import (
    halves_swapped,
    interleaved,
    scales_by_four,
    scales_by_tile,
    shuffled_rows,
)
from moe.errors import MoEError

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.types import ExpertWeights


@dataclass(frozen=True, kw_only=True)
class CutlassArguments:
    """Hold what `cutlass_fused_moe` takes beside tokens. interleaves: w13, w2 still need that."""

    w13: Tensor
    w2: Tensor
    scales: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    interleaves: bool = False


def cutlass_arguments(weights: ExpertWeights, activations: Format) -> CutlassArguments:
    """Return the arguments for these weights and this format of activations.

    Raises MoEError if a scale is missing, or the kernel does not have the pair of formats.
    """
    w13, w2 = halves_swapped(weights.w13), weights.w2.contiguous()
    pair = weights.format.name, activations.name
    if pair == ("model", "model"):
        return CutlassArguments(w13=w13, w2=w2, scales=[])
    if pair == ("fp8_tensor", "fp8_static"):
        return CutlassArguments(w13=w13, w2=w2, scales=_tensor_scales(weights))
    if pair == ("mxfp4", "model"):
        scales = [scales_by_four(scale) for scale in _swapped_scales(weights)]
        options = {"use_w4_group_scaling": True}
        return CutlassArguments(w13=w13, w2=w2, scales=scales, options=options, interleaves=True)
    if weights.format.packing > 1:  # fp4 is passed in words
        w13, w2 = w13.view(torch.int64), w2.view(torch.int64)
    options = {"swizzled_input_sf": False}
    if pair in (("mxfp4", "mxfp8"), ("mxfp8", "mxfp8")):
        one = torch.ones(len(w13), device=w13.device)
        first, second = _tiles(weights)
        options |= {"use_mxfp8_act_scaling": True}
        return CutlassArguments(w13=w13, w2=w2, scales=[first, one, second, one], options=options)
    if pair == ("nvfp4", "nvfp4_static"):
        scales = _two_level_scales(weights)
        return CutlassArguments(w13=w13, w2=w2, scales=scales, options=options)
    raise MoEError(
        f"flashinfer_cutlass has no kernel for {pair[0]} weights and {pair[1]} activations; use a "
        "quant that its row names, such as fp8_tensor"
    )


def trtllm_fp4_arguments(weights: ExpertWeights) -> dict[str, Tensor | None]:
    """Return fp4 weights, scales and factors by the names of `trtllm_fp4_block_scale_moe`.

    Rows of w13 are interleaved; those of both matrices are shuffled, and their scales with them,
    which then lie in tiles. Raises MoEError if a scale is missing.
    """
    first, second = _swapped_scales(weights)
    is_two_level = weights.format.global_scale
    gate = down = None
    if is_two_level:
        gate, down = _dequantizing_factors(weights)
    return {
        "gemm1_weights": shuffled_rows(interleaved(halves_swapped(weights.w13))),
        "gemm1_weights_scale": _as_fp8(scales_by_tile(shuffled_rows(interleaved(first)))),
        "gemm2_weights": shuffled_rows(weights.w2),
        "gemm2_weights_scale": _as_fp8(scales_by_tile(shuffled_rows(second))),
        "output1_scale_scalar": None if gate is None else gate * _static(weights)[1],
        "output1_scale_gate_scalar": gate,
        "output2_scale_scalar": down,
        **dict.fromkeys(("gemm1_bias", "gemm1_alpha", "gemm1_beta", "gemm1_clamp_limit")),
        "gemm2_bias": None,
    }


def _tensor_scales(weights: ExpertWeights) -> list[Tensor]:
    """Return fp8's: [e] of the first sums, [] 1 / that between, [e] of the second, [] of x."""
    w13_scale, w2_scale = _scales(weights)
    a1, a2 = (scale.float().reshape(()) for scale in _static(weights))
    return [
        (w13_scale.float() * a1).contiguous(),
        a2.reciprocal(),
        (w2_scale.float() * a2).contiguous(),
        a1,
    ]


def _two_level_scales(weights: ExpertWeights) -> list[Tensor]:
    """Return nvfp4's: for each product the input's global scale, tiles, and the sums' factor."""
    first, second = _tiles(weights)
    a1, a2 = _static(weights)
    gate, down = _dequantizing_factors(weights)
    return [a1, first, gate, a2, second, down]


def _dequantizing_factors(weights: ExpertWeights) -> tuple[Tensor, Tensor]:
    """Return 1 / (the input's global scale * the weights'), [e] float32, of both products."""
    a1, a2 = _static(weights)
    assert weights.w13_global is not None, "made with w13_scale"
    assert weights.w2_global is not None, "made with w2_scale"
    return (a1 * weights.w13_global).reciprocal(), (a2 * weights.w2_global).reciprocal()


def _static(weights: ExpertWeights) -> tuple[Tensor, Tensor]:
    """Return the calibrated scales of both inputs. Raises MoEError if one is missing."""
    if weights.a1_scale is None or weights.a2_scale is None:
        raise MoEError(
            "flashinfer takes no dynamic scales of whole tensors: a1_scale or a2_scale is None; "
            "use a quant with static scales, such as fp8_tensor or nvfp4"
        )
    return weights.a1_scale.float(), weights.a2_scale.float()


def _scales(weights: ExpertWeights) -> tuple[Tensor, Tensor]:
    """Return both scales of the weights. Raises MoEError if one is missing."""
    if weights.w13_scale is None or weights.w2_scale is None:
        name = weights.format.name
        raise MoEError(f"w13_scale or w2_scale of {name} weights is None: pass what the quant made")
    return weights.w13_scale, weights.w2_scale


def _swapped_scales(weights: ExpertWeights) -> tuple[Tensor, Tensor]:
    """Return the scales of groups, those of up before those of gate."""
    first, second = _scales(weights)
    return halves_swapped(first.view(torch.uint8)), second.view(torch.uint8)


def _tiles(weights: ExpertWeights) -> tuple[Tensor, Tensor]:
    """Return the scales of groups in tiles, four in an int32."""
    first, second = (scales_by_tile(scale) for scale in _swapped_scales(weights))
    return first.view(torch.int32), second.view(torch.int32)


def _as_fp8(scales: Tensor) -> Tensor:
    return scales.view(torch.float8_e4m3fn)  # of either kind: the kernel reads bytes
