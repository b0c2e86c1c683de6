"""Mistakes in kernels that read codes and scales by groups, shown by cases of exact mode."""

from __future__ import annotations

from moe.kernels import decode, decoding_gemm, quantize_groups
from tests.mistakes.mistake import mistake
from tests.mistakes.mistakes_kernels import edited

TO_THE_BIT = {"experts": "triton", "exact": True, "m": 4}


@mistake("zero points", "AutoGPTQ", "says:stage gemm1", quant="int4_zp_g32", **TO_THE_BIT)
def zero_point_of_the_first_group_for_all(patch):
    edited(patch, decoding_gemm, "_dot_decoded", "zero_ptr + at", "zero_ptr + at * 0")


@mistake("value of a code", "FI #3334", "says:stage gemm1", quant="mxfp4", **TO_THE_BIT)
def bias_of_e2m1_one_too_high(patch):
    edited(patch, decode, "e2m1_values", "(size >> 1) + 126", "(size >> 1) + 127")


@mistake("global scale", "SGLang #13715", "says:stage gemm2", quant="nvfp4", **TO_THE_BIT)
def global_scale_of_the_first_expert_for_all(patch):
    edited(patch, decoding_gemm, "_decoding_gemm", "w_total_ptr + expert", "w_total_ptr")


@mistake("scale of a group", "OCP MX 1.0", "says:stage second", quant="mxfp4_mxfp4", **TO_THE_BIT)
def scale_of_a_group_of_activations_twice_as_large(patch):
    """Half the codes are still exact."""
    old, new = "(bits >> 23) - EXPONENT", "(bits >> 23) - EXPONENT + 1"
    edited(patch, quantize_groups, "_exponent_code", old, new)
