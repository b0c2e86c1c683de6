"""Mistakes in a router's options, in weights on the input, in padding rows and in NaN rows."""

from __future__ import annotations

import dataclasses

import torch

from moe import expert_choice, layer, moe_kernel, routing
from moe.routers.sigmoid.member import SigmoidTopK
from moe.routers.softmax.member import SoftmaxTopK
from moe.types import Routing
from tests.mistakes.mistake import around, mistake
from tests.mistakes.mistakes_routing import routed

WEIGHTS = "says:routing: .* wrong weights"
BIAS = {"router": "sigmoid", "router_bias": True, "num_experts": 8}
GROUPS = {"router_groups": 4, "chosen_groups": 2}
TOP_1 = {"router": "sigmoid", "renormalize": False, "weights_input": True, "top_k": 1}


def called(patch, change, member=SigmoidTopK):
    """Change a router's result: `change(logits, routing, options) -> Routing`."""

    def route(real, self, logits, top_k, **options):
        return change(logits, real(self, logits, top_k, **options), options)

    around(patch, member, "__call__", route)


@mistake("bias in the weights", "none known", WEIGHTS, **BIAS)
def correction_bias_leaks_into_weights(patch):
    def leak(logits, right, options):
        keys = torch.sigmoid(logits.float()) + options["bias"]
        return expert_choice.weighed(
            keys.gather(1, right.topk_ids.long()), right.topk_ids, renormalize=True
        )

    called(patch, leak)


@mistake("bias left out", "none known", "says:routing: .* leave out a better expert", **BIAS)
def correction_bias_ignored(patch):
    def without(real, self, logits, top_k, *, bias, **options):
        return real(self, logits, top_k, **options)

    around(patch, SigmoidTopK, "__call__", without)


@mistake(
    "group score",
    "none known",
    "says:routing: .* or group of experts",
    **BIAS,
    **GROUPS,
    m=32,
)
def groups_ranked_by_their_best_expert(patch):
    def by_best(real, keys, groups, chosen_groups):
        by_group = keys.view(len(keys), groups, -1)
        best = by_group.amax(dim=2).topk(chosen_groups, dim=1).indices
        kept = torch.zeros(by_group.shape[:2], dtype=torch.bool).scatter_(1, best, True)
        return by_group.masked_fill(~kept[:, :, None], -torch.inf).view(keys.shape)

    around(patch, expert_choice, "without_other_groups", by_best)


@mistake(
    "masked groups",
    "FI #4639",
    "says:routing: .* or group of experts",
    **{**BIAS, **GROUPS, "top_k": 3},
)
def other_groups_masked_with_zero(patch):
    def zeroed(real, keys, groups, chosen_groups):
        return real(keys, groups, chosen_groups).nan_to_num(neginf=0.0)

    around(patch, expert_choice, "without_other_groups", zeroed)


@mistake("normalised over all", "none known", WEIGHTS, "renormalised_over_all", router="sigmoid")
def renormalised_over_all_experts(patch):
    def over_all(logits, right, options):
        scores = torch.sigmoid(logits.float())
        weights = scores.gather(1, right.topk_ids.long()) / scores.sum(dim=1, keepdim=True)
        return dataclasses.replace(right, topk_weights=weights)

    called(patch, over_all)


@mistake("maximum not subtracted", "none known", WEIGHTS, logits="large")
def softmax_without_its_maximum(patch):
    def overflowing(logits, right, options):
        e = logits.float().exp()
        weights = (e / e.sum(dim=1, keepdim=True)).gather(1, right.topk_ids.long())
        return dataclasses.replace(right, topk_weights=weights)

    called(patch, overflowing, SoftmaxTopK)


@mistake(
    "duplicates among ties", "aiter #1716", "says:routing: .* choose an expert twice", logits="ties"
)
def equal_experts_chosen_twice(patch):
    def first_equal(logits, right, options):
        values = logits.float()
        best = values.gather(1, right.topk_ids.long())
        ids = torch.stack([(values == v[:, None]).int().argmax(dim=1) for v in best.T], dim=1)
        return dataclasses.replace(right, topk_ids=ids.int())

    called(patch, first_equal, SoftmaxTopK)


@mistake("scale twice", "vLLM #45037", "router_scale_twice", router_scale=2.5, num_experts=8)
def router_scale_applied_twice(patch):
    routed(patch, lambda ids, weights: (ids, weights * 2.5))


@mistake("scale missing", "vLLM #45037", WEIGHTS, "router_scale_missing", router_scale=2.5)
def router_scale_left_out(patch):
    called(
        patch,
        lambda logits, right, options: dataclasses.replace(
            right, topk_weights=right.topk_weights / 2.5
        ),
        SoftmaxTopK,
    )


@mistake(
    "scale on shared experts",
    "vLLM #45037",
    "router_scale_on_shared",
    "says:stage shared|shared",
    router_scale=2.5,
    shared_experts=1,
)
def router_scale_applied_to_the_shared_experts(patch):
    around(patch, layer.SharedExperts, "forward", lambda real, self, x: real(self, x) * 2.5)


@mistake("weight at both places", "vLLM #43694", "weights_on_both", "weights_twice", **TOP_1)
def weight_on_input_and_output(patch):
    def both(real, x, chosen):
        weighted, _ = real(x, chosen)
        return weighted, chosen

    around(patch, moe_kernel, "weights_on_input", both)


@mistake("weight at the wrong place", "vLLM #16744", "weights_on_output", **TOP_1, num_experts=6)
def weight_on_the_output_alone(patch):
    around(patch, moe_kernel, "weights_on_input", lambda real, x, chosen: (x, chosen))


@mistake(
    "padding in a scale",
    "none known",
    quant="fp8_tensor_dynamic",
    padding="all",
    m=9,
    n=128,
)
def a_scale_depends_on_padding(patch):
    around(patch, moe_kernel, "zeroed_padding", lambda real, x, ids: x)


@mistake("padding shifts rows", "aiter #3677", "rows_moved", padding="middle", m=9)
def rows_after_padding_move_up(patch):
    def packed(real, self, x, chosen):
        out = real(self, x, chosen)
        is_real = (chosen.topk_ids >= 0).any(dim=1)
        moved = torch.zeros_like(out)
        moved[: int(is_real.sum())] = out[is_real]
        return moved

    around(patch, moe_kernel.MoEKernel, "apply", packed)


@mistake("NaN hidden", "FI #1347", "says:routing: .* hold a NaN hide it", logits="nan")
def nan_logits_count_as_the_lowest(patch):
    def hidden(real, self, logits, top_k, **options):
        return real(self, logits.nan_to_num(nan=-100.0), top_k, **options)

    around(patch, SoftmaxTopK, "__call__", hidden)


@mistake("logits in a narrow dtype", "SGLang #33764", WEIGHTS, logits_dtype="f32", router="sigmoid")
def float32_logits_rounded_to_bf16(patch):
    def narrow(logits, right, options):
        rounded = torch.sigmoid(logits.bfloat16().float()).gather(1, right.topk_ids.long())
        return expert_choice.weighed(rounded, right.topk_ids, renormalize=True)

    called(patch, narrow)


@mistake("gate's rows in the wrong order", "none known", "says:routing: .*", gate=True)
def gate_weight_of_the_next_expert(patch):
    def rolled(real, self, x, logits, method):
        moved = dataclasses.replace(self, gate=self.gate.roll(1, 0))
        return real(moved, x, logits, method)

    around(patch, routing.RouterWeights, "logits", rolled)


@mistake("topk before the softmax", "none known", "says:routing: .* wrong", renormalize=False)
def softmax_over_the_chosen_alone(patch):
    def after(logits, right, options):
        chosen = logits.float().gather(1, right.topk_ids.long())
        return Routing(topk_ids=right.topk_ids, topk_weights=torch.softmax(chosen, dim=1))

    called(patch, after, SoftmaxTopK)
