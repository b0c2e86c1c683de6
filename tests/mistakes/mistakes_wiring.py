"""Mistakes in parts that meet: groups and biases, scales and shared experts, padding and biases.

Written from the members' text alone, before the table of known mistakes was read.
"""

from __future__ import annotations

import dataclasses

import torch

from moe import batches, expert_choice, layer
from moe.experts import torch_monolithic, triton_batched
from moe.kernels import (
    activation,
    decoded_dot,
    exponents,
    group_weights,
    products,
    quantize_groups,
    top_k,
)
from moe.quant import padding
from moe.types import ExpertWeights
from tests.mistakes.mistake import around, edited, mistake

NEVER = "none known"
WRONG_WEIGHTS = "says:routing: .* wrong weights"
GROUP = "says:routing: .* or group of experts"
CHOICE = "says:routing: .* leave out a better expert"
BETTER = (GROUP, CHOICE)
LIMITED = {"num_experts": 8, "router": "sigmoid", "router_groups": 4, "chosen_groups": 2, "m": 32}
BIASED = {**LIMITED, "router_bias": True}
MASKED = "keys = without_other_groups(keys, groups, chosen_groups)"


@mistake("bias for groups only", "vLLM #37605", *BETTER, **BIASED)
def bias_counts_for_groups_only(patch):
    edited(patch, expert_choice, "choose", MASKED, f"{MASKED} - bias")


@mistake("group score without bias", "vLLM #37605", *BETTER, **BIASED)
def group_scores_without_bias(patch):
    kept = "without_other_groups(scores, groups, chosen_groups) == -torch.inf"
    edited(patch, expert_choice, "choose", MASKED, f"keys = keys.masked_fill({kept}, -torch.inf)")


@mistake("groups of other experts", NEVER, *BETTER, **LIMITED)
def groups_of_alternating_experts(patch):
    old = "keys.view(len(keys), groups, keys.shape[1] // groups)"
    new = "keys.view(len(keys), keys.shape[1] // groups, groups).mT"
    edited(patch, expert_choice, "without_other_groups", old, new)


@mistake("renormalisation of one", NEVER, WRONG_WEIGHTS, router="sigmoid", top_k=1)
def only_weight_not_renormalised(patch):
    edited(
        patch, expert_choice, "weighed", "if renormalize:", "if renormalize and ids.shape[1] > 1:"
    )


@mistake(
    "overflow of exp",
    "FI #1347",
    "says:routing: .*",
    router="triton_softplus_sqrt",
    logits="large",
)
def softplus_overflows(patch):
    edited(patch, top_k, "_scores", "tl.where(x > 20.0, x, small)", "tl.log(1.0 + tl.exp(x))")


@mistake("unused slots", NEVER, WRONG_WEIGHTS, router="triton_topk_softmax", top_k=3)
def unused_slots_are_part_of_the_softmax(patch):
    old = "tl.where(used, tl.exp(weights - largest[:, None]), 0.0)"
    edited(patch, top_k, "_top_k", old, "tl.exp(weights - largest[:, None])")


@mistake(
    "padding in a scale",
    "aiter #3677",
    "which_ids",
    quant="fp8_tensor_dynamic",
    padding="all",
    shared_experts=1,
    shared_fused=True,
    m=9,
    n=128,
)
def padding_rows_keep_their_shared_slots(patch):
    held = []

    def add(real, self, x, routing):
        made = real(self, x, routing)
        held.append((self, made.topk_ids[:, -self.count :], made.topk_weights[:, -self.count :]))
        return made

    def masked(real, routing, is_padding):
        made = real(routing, is_padding)
        shared, ids, weights = held.pop()
        routed = slice(0, made.topk_ids.shape[1] - shared.count)
        return dataclasses.replace(
            made,
            topk_ids=torch.cat([made.topk_ids[:, routed], ids], dim=1),
            topk_weights=torch.cat([made.topk_weights[:, routed], weights], dim=1),
        )

    around(patch, layer.FusedShared, "add_to", add)
    around(patch, layer, "without_padding", masked)


@mistake(
    "rows without an expert in a batch",
    "vLLM #48371",
    experts="triton_batched",
    dp_size=2,
    use_ep=True,
    m=16,
)
def slots_of_other_ranks_fill_the_last_batch(patch):
    old = "used = (ids >= 0) & (place < capacity)"
    edited(patch, batches, "to_batches", old, "used = place < capacity")


@mistake("padding of a bias", "vLLM #42098", "which_addend", expert_bias=True, n=68, k=100)
def first_bias_padded_after_both_halves(patch):
    edited(patch, padding, "_biases", '(halves, high), "b2"', '(1, halves * high), "b2"')


ZERO = {"zero_experts": 3, "top_k": 3}


@mistake("zero experts", "vLLM #49087", "first_zero_expert_missing", **ZERO)
def first_zero_expert_left_out(patch):
    around(patch, layer, "with_zero_experts", lambda real, *a: real(*a[:-1], a[-1] + 1))


@mistake("scale of zero experts", "vLLM #45037", "zero_experts_unscaled", router_scale=2.5, **ZERO)
def zero_experts_not_scaled(patch):
    def unscaled(real, out, x, routing, first):
        weights = routing.topk_weights / 2.5
        return real(out, x, dataclasses.replace(routing, topk_weights=weights), first)

    around(patch, layer, "with_zero_experts", unscaled)


@mistake(
    "scale on shared experts",
    "vLLM #45037",
    "says:fused shared expert",
    "says:weights",
    router_scale=2.5,
    shared_experts=1,
    shared_fused=True,
)
def fused_shared_experts_scaled_as_routed_ones(patch):
    def scaled(real, self, x, routing):
        made = real(self, x, routing)
        made.topk_weights[:, -self.count :] *= 2.5
        return made

    around(patch, layer.FusedShared, "add_to", scaled)


@mistake(
    "activation of shared experts",
    NEVER,
    "says:stage shared",
    activation="gelu_tanh",
    shared_experts=1,
)
def shared_experts_with_the_default_activation(patch):
    silu = {"activation": "silu"}
    around(
        patch,
        layer.SharedExperts,
        "__init__",
        lambda real, self, **kw: real(self, **{**kw, **silu}),
    )


MONOLITHIC = {"experts": "torch_monolithic"}


@mistake("scale missing", "vLLM #45037", "router_scale_missing", router_scale=2.5, **MONOLITHIC)
def monolithic_without_the_scale(patch):
    edited(patch, torch_monolithic, "dense_routing", "weights * method.scale", "weights")


@mistake("group score without bias", "vLLM #37605", **{**BIASED, **MONOLITHIC})
def monolithic_ranks_groups_without_bias(patch):
    old = "ranked = _in_best_groups(ranked, method)"
    new = "ranked = ranked.masked_fill(_in_best_groups(scores, method) == -torch.inf, -torch.inf)"
    edited(patch, torch_monolithic, "dense_routing", old, new)


BATCHED = {"experts": "triton_batched"}


@mistake(
    "layout of scales", "FI #3334", "says:stage gemm1", quant="fp8_block", k=256, n=128, **BATCHED
)
def scales_of_batches_by_group_first(patch):
    old = "view(num_local, capacity, scale.shape[1])"
    new = "view(num_local, scale.shape[1], capacity).mT.contiguous()"
    edited(patch, batches, "to_batches", old, new)


@mistake("bias of an expert", "FI #1876", "second_bias_missing", expert_bias=True, **BATCHED)
def second_bias_of_batches_left_out(patch):
    old, new = "(w.b2, adapters.second)", "(None, adapters.second)"
    edited(patch, triton_batched.TritonBatchedExperts, "apply", old, new)


TRITON = {"experts": "triton"}


@mistake(
    "scale of another block",
    "FI #3334",
    "says:stage gemm1",
    quant="int4_zp_g32",
    k=256,
    **TRITON,
)
def groups_of_a_step_have_one_scale(patch):
    edited(patch, decoded_dot, "decoded_dot", "scales[part // SPAN]", "scales[0]")


@mistake("rounding of exponents", "OCP MX 1.0", "which_weights", quant="mxfp4", k=256)
def exponents_of_weights_rounded_up(patch):
    old, new = 'fmt.scale_rounding == "floor"', "False"
    edited(patch, exponents, "exponent_code_torch", old, new)


@mistake("scope of a global scale", "vLLM #45037", "which_totals", quant="nvfp4")
def one_global_scale_for_all_experts(patch):
    old, new = "w.abs().amax(dim=(1, 2))", "w.abs().amax().expand(len(w))"
    edited(patch, group_weights, "_totals", old, new)


@mistake("scale of another product", "FI #3755", "w2_global_scale_from_w13", quant="nvfp4")
def global_scale_of_the_first_matrix_for_the_second(patch):
    def of_first(self):
        return self._tensor(self.w2, self.w2_scale, self.w13_global, self.w2_zero)

    patch.setattr(ExpertWeights, "down", property(of_first))


@mistake("sign of codes", "vLLM #35126", "says:stage gemm1", quant="int8_zp_g32", **TRITON)
def unsigned_codes_read_as_signed(patch):
    old = "rounding.values_of(tl.load(at)) - zero"
    new = "tl.load(at).to(tl.int8, bitcast=True).to(tl.float32) - zero"
    edited(patch, decoded_dot, "_part_values", old, new)


@mistake("scale of another row", "FI #3650", "says:stage gemm1", quant="w4a8", n=128, **TRITON)
def token_scale_of_the_first_row(patch):
    edited(patch, products, "store_tile", "x_scale_ptr + source)", "x_scale_ptr + source * 0)")


@mistake(
    "write past the end", "FI #4186", "says:memory: .* after a buffer", quant="mxfp8", m=3, **TRITON
)
def groups_beyond_the_end_are_written(patch):
    old, new = "used[:, None] & (byte * step < GROUP)", "(byte * step < GROUP)"
    edited(patch, quantize_groups, "_encode_groups", old, new)


@mistake(
    "another form of the activation",
    "mistral.rs #1867",
    "says:stage activation",
    activation="gelu",
    **TRITON,
)
def gelu_of_a_kernel_by_tanh(patch):
    old = "0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))"
    new = "_times_sigmoid(x, 1.5957691216057308 * (x + 0.044715 * x * x * x))"
    edited(patch, activation, "_gelu", old, new)
