"""Mistakes in the text of kernels: a tile, a step, a chunk or a remainder is lost.

In the interpreter a small layer is one tile of everything, so most of them show only in cases with
small tiles (`call: small_tiles`), with sizes that are no powers of two, or with many experts.
"""

from __future__ import annotations

from moe.kernels import (
    align,
    combine,
    decode,
    decoded_dot,
    grouped_gemm,
    quantize,
    scaled_dot,
)
from tests.mistakes.mistake import edited, mistake

EVERY = {"experts": "triton"}
DECODED = {"experts": "triton_batched", "quant": "mxfp4"}
TINY = {"experts": "triton", "n": 96, "k": 96, "call": "small_tiles"}


@mistake(
    "last step of the inner sum lost",
    "DeepEP #413",
    "says:stage gemm1",
    experts="triton",
    n=96,
    k=160,
)
def partial_step_lost(patch):
    edited(patch, scaled_dot, "scaled_dot", "tl.cdiv(inner, BLOCK_K)):", "inner // BLOCK_K):")


@mistake("steps after the first lost", "aiter #4993", "says:stage gemm1", **TINY)
def only_the_first_step(patch):
    edited(patch, scaled_dot, "scaled_dot", "range(tl.cdiv(inner, BLOCK_K))", "range(1)")


@mistake("columns after the first tile shifted", "FI #4186", "says:stage gemm1", **TINY)
def tiles_of_columns_overlap(patch):
    old, new = "tile * BLOCK_N + tl.arange", "tile * (BLOCK_N - 1) + tl.arange"
    edited(patch, grouped_gemm, "_grouped_gemm", old, new)


@mistake("order of tiles loses blocks", "aiter #4451", "says:stage gemm1", m=24, **TINY)
def second_group_of_blocks_starts_at_the_first(patch):
    edited(patch, grouped_gemm, "tile_of", "return first + inside", "return inside")


@mistake("rows of a later chunk placed wrong", "aiter #252", "says:stage gemm1", m=24, **TINY)
def chunks_do_not_know_of_earlier_ones(patch):
    old, new = "(other < chunk)[:, None], count", "(other < 0)[:, None], count"
    edited(patch, align, "_place", old, new)


@mistake("columns of a later tile not written", "vLLM #49087", "says:stage combine", **TINY)
def only_the_first_tile_of_columns(patch):
    old, new = "tl.program_id(1) * WIDE", "0 * tl.program_id(1)"
    edited(patch, combine, "_combine", old, new)


@mistake(
    "largest value of later columns ignored",
    "TRT-LLM #11817",
    "says:stage second",
    **{**TINY, "quant": "fp8_tensor_dynamic", "n": 192},
)
def scale_of_the_first_columns(patch):
    edited(patch, quantize, "_amax_rows", "range(0, columns, WIDE)", "range(0, WIDE, WIDE)")


@mistake(
    "experts above a limit left out", "aiter #4482", "says:stage gemm1", num_experts=16, **EVERY
)
def experts_of_the_upper_half_have_no_rows(patch):
    edited(patch, align, "_one_hot", "(expert < experts)", "(expert < experts // 2)")


@mistake("steps after the first lost", "aiter #4993", "says:stage gemm1", k=256, **DECODED)
def only_the_first_step_of_decoded_weights(patch):
    edited(patch, decoded_dot, "decoded_dot", "range(steps)", "range(1)")


@mistake("columns of a byte exchanged", "AutoAWQ packing", "says:stage gemm1", **DECODED)
def halves_of_arranged_words_exchanged(patch):
    old = "tl.join(pairs << 16, pairs & -0x10000)"
    edited(patch, decode, "_columns_of", old, "tl.join(pairs & -0x10000, pairs << 16)")


@mistake("scale of the next group", "vLLM #45037", "says:stage gemm1", **DECODED)
def scale_of_the_neighbouring_part(patch):
    edited(patch, decode, "scales_of_word", "(8 * PART)", "(8 * (PART ^ 1))")
