"""Mistakes in kernels that read codes and scales by groups, shown by cases of exact mode."""

from __future__ import annotations

from moe.kernels import decode, decoded_dot, exponents, products
from tests.mistakes.mistake import mistake
from tests.mistakes.mistakes_kernels import edited

TO_THE_BIT = {"experts": "triton", "exact": True, "m": 4}


@mistake("zero points", "AutoGPTQ", "says:stage gemm1", quant="int4_zp_g32", **TO_THE_BIT)
def zero_point_of_the_first_group_for_all(patch):
    edited(patch, decoded_dot, "decoded_dot", "(8 * (part // SPAN))", "(0 * (part // SPAN))")


@mistake("value of a code", "FI #3334", "says:stage gemm1", quant="mxfp4", **TO_THE_BIT)
def exponents_of_the_last_part_lose_a_bit(patch):
    edited(patch, decode, "_e2m1_pairs", "(word >> 5)", "(word >> 6)")


@mistake("global scale", "SGLang #13715", "says:stage gemm2", quant="nvfp4", **TO_THE_BIT)
def global_scale_of_the_first_expert_for_all(patch):
    edited(patch, products, "store_tile", "w_total_ptr + expert", "w_total_ptr")


@mistake("scale of a group", "OCP MX 1.0", "says:stage second", quant="mxfp4_mxfp4", **TO_THE_BIT)
def scale_of_a_group_of_activations_twice_as_large(patch):
    """Half the codes are still exact."""
    old, new = "(bits >> 23) - EXPONENT", "(bits >> 23) - EXPONENT + 1"
    edited(patch, exponents, "exponent_code", old, new)
