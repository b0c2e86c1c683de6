"""Mistakes in granularities of scales, in fp8 of another encoding, and in padded sizes."""

from __future__ import annotations

import torch

from moe import moe_kernel
from moe.quant import padding
from tests.mistakes.mistake import around, mistake
from tests.mistakes.mistakes_scales import scaled

PADDED = {"n": 96, "k": 160, "roundup": 128}


@mistake("scale of another channel", "SGLang #13715", "scale_shifted", quant="fp8_channel")
def channel_scales_shifted_by_one(patch):
    scaled(patch, lambda w: w.replace(w13_scale=w.w13_scale.roll(1, 1)))


@mistake(
    *("layout of scales", "FI #3334", "w2_scale_transposed"),
    quant="int8_block",
    n=256,
    k=256,
    num_experts=2,
)
def int8_block_scales_transposed(patch):
    scaled(patch, lambda w: w.replace(w2_scale=w.w2_scale.transpose(1, 2).contiguous()))


@mistake("fp8 of another encoding", "vLLM #35126", "doubled", quant="fp8_fnuz_channel")
def codes_of_fnuz_read_as_ocp(patch):
    """Each code of the second matrix is then twice the value."""
    scaled(patch, lambda w: w.replace(w2_scale=w.w2_scale * 2))


@mistake("padding of sizes", "vLLM #42098", **PADDED)
def padding_comes_after_up_instead_of_after_gate_too(patch):
    def together(real, w, halves, rows, columns, code=0):
        return real(w, 1, halves * rows, columns, code)

    around(patch, padding, "_padded", together)


@mistake("padding of sizes", "vLLM #43865", **PADDED)
def tokens_are_padded_in_front(patch):
    def in_front(real, x, columns):
        return real(x, columns).roll(columns - x.shape[1], 1)

    around(patch, moe_kernel, "_with_zeros", in_front)


@mistake("padding of sizes", "vLLM #38148", quant="int8_channel", **PADDED)
def padded_columns_are_not_zero(patch):
    def filled(real, w, halves, rows, columns, code=0):
        out = real(w, halves, rows, columns, code)
        raw = out.view(torch.int8) if out.element_size() == 1 else out
        raw[..., w.shape[-1] :] = 1
        raw.view(len(w), halves, rows, columns)[:, :, w.shape[1] // halves :] = 1
        return out

    around(patch, padding, "_padded", filled)
