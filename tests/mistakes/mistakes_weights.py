"""Mistakes with packed codes, scales on a grid, zero points and global scales."""

from __future__ import annotations

import dataclasses

import torch

from moe.quant.base import QuantMethod
from moe.quant.checkpoint_layouts import AWQ_ORDER, IN_ORDER, CheckpointLayout
from moe.quant.grouped import GroupCodes
from moe.types import Activations
from tests.mistakes.mistake import around, mistake
from tests.mistakes.mistakes_scales import scaled


def of_both(patch, name, change):
    """Change a field of both matrices, such as `_scale`, in what a backend is given."""
    fields = (f"w13{name}", f"w2{name}")
    scaled(patch, lambda w: w.replace(**{field: change(getattr(w, field)) for field in fields}))


@mistake("order of nibbles", "AutoAWQ packing", "nibbles_swapped", quant="mxfp4")
def codes_of_a_byte_swapped(patch):
    of_both(patch, "", lambda codes: (codes >> 4) | ((codes & 15) << 4))


@mistake("order of words", "AutoAWQ packing", "words_in_awq_order", quant="int4_g32")
def words_of_gptq_read_in_the_order_of_awq(patch):
    confuse(patch, IN_ORDER, AWQ_ORDER)


@mistake("order of words", "AutoAWQ packing", "words_out_of_awq_order", quant="int4_zp_g32")
def words_of_awq_read_in_order(patch):
    confuse(patch, AWQ_ORDER, IN_ORDER)


def confuse(patch, order, wrong):
    """Load the words that have an order in another one."""

    def load(real, self, stored, fmt):
        is_it = self.order == order
        return real(dataclasses.replace(self, order=wrong) if is_it else self, stored, fmt)

    around(patch, CheckpointLayout, "load", load)


@mistake("bias of exponents", "OCP MX 1.0", "exponents_one_too_high", quant="mxfp4_mxfp8")
def exponents_of_scales_one_too_high(patch):
    of_both(patch, "_scale", lambda scale: scale + 1)


@mistake("scale of the next block", "FI #3334", "scale_shifted", quant="mxfp8")
def scales_of_groups_shifted_by_one(patch):
    scaled(patch, lambda w: w.replace(w13_scale=w.w13_scale.roll(1, 2)))


@mistake("zero points", "AutoGPTQ", "zero_points_ignored", quant="int8_zp_g64")
def zero_points_not_subtracted(patch):
    of_both(patch, "_zero", torch.zeros_like)


@mistake("zero points", "AutoGPTQ", "zero_points_one_too_low", quant="int4_zp_g64")
def zero_points_as_a_checkpoint_stores_them(patch):
    of_both(patch, "_zero", lambda zero: (zero.int() - 1).clamp(min=0).to(torch.uint8))


@mistake("global scale", "vLLM #45037", "global_scales_missing", quant="nvfp4")
def global_scale_left_out(patch):
    of_both(patch, "_global", torch.ones_like)


@mistake("global scale", "vLLM #45037", "zeros", quant="nvfp4")
def global_scale_applied_twice(patch):
    of_both(patch, "_global", torch.square)


@mistake("quantization left out", "FI #2882", "activations_unquantized", quant="mxfp4_mxfp8")
def activations_beside_fp4_weights_unquantized(patch):
    patch.setattr(GroupCodes, "quantize_input", lambda self, x, s: Activations(codes=x))


@mistake("quantization left out", "FI #2882", "second_unquantized", quant="nvfp4")
def second_quantization_skipped_nvfp4(patch):
    around(
        patch, QuantMethod, "quantize_intermediate", lambda real, self, h, s: Activations(codes=h)
    )
