"""Mistakes around the routed experts: shared experts of each kind, and zero experts."""

from __future__ import annotations

import dataclasses

import torch

from harness.fixtures import layer_weights
from moe import layer, moe_kernel
from moe.quant import QUANT
from moe.shared import FusedShared, SharedExperts
from tests.mistakes.mistake import SAYS, around, mistake

NO_REPORT = "none known"
EP = {"dp_size": 2, "use_ep": True}
SHARED = {"shared_experts": 1}
FUSED = {**SHARED, "shared_fused": True}


def ungated(patch, kind):
    around(patch, kind, "__init__", lambda real, self, gate, **kw: real(self, gate=None, **kw))


@mistake("gate of shared experts", NO_REPORT, "shared_gate_ignored", shared_gate=True, **SHARED)
def gate_of_shared_experts_ignored(patch):
    ungated(patch, SharedExperts)


@mistake("gate of shared experts", NO_REPORT, f"{SAYS}weights", shared_gate=True, **FUSED)
def gate_of_fused_shared_experts_ignored(patch):
    ungated(patch, FusedShared)


@mistake("fused shared experts", "vLLM #51632", "shared_missing", "expert_dropped", **FUSED, **EP)
def fused_shared_experts_not_in_the_expert_map(patch):
    def without(real, layer_spec, rank, device):
        local = real(layer_spec, rank, device)
        local[layer_spec.num_experts :] = -1
        return local

    around(patch, layer, "_expert_map", without)


@mistake(
    "fused shared experts",
    "SGLang #36515",
    f"{SAYS}fused shared expert",
    **{**FUSED, "shared_experts": 2},
)
def one_fused_shared_expert_takes_all_shared_slots(patch):
    def first_only(real, self, x, routing):
        made = real(self, x, routing)
        made.topk_ids[:, -1] = made.topk_ids[:, -2]
        return made

    around(patch, FusedShared, "add_to", first_only)


@mistake(
    "quantization of shared experts",
    NO_REPORT,
    f"{SAYS}shared:",
    shared_quant="int8_channel",
    **SHARED,
)
def shared_experts_not_quantized(patch):
    plain = QUANT.load("none")()

    def unquantized(real, *where, quant, **kw):
        return real(*where, quant=plain, **kw)

    around(patch, layer_weights, "shard_shared", unquantized)


ZERO = {"zero_experts": 3, "top_k": 3}


@mistake("zero experts", "vLLM #49087", "zero_experts_missing", **ZERO)
def zero_experts_dropped(patch):
    around(patch, layer, "with_zero_experts", lambda real, out, *_: out)


@mistake("zero experts", NO_REPORT, "zero_experts_unweighted", **ZERO)
def zero_experts_without_their_weight(patch):
    def unweighted(real, out, x, routing, first):
        ones = torch.ones_like(routing.topk_weights)
        return real(out, x, dataclasses.replace(routing, topk_weights=ones), first)

    around(patch, layer, "with_zero_experts", unweighted)


@mistake("zero experts", NO_REPORT, "zero_experts_weighted_twice", **ZERO)
def zero_experts_scaled_twice(patch):
    def twice(real, out, x, routing, first):
        squares = routing.topk_weights.square()
        return real(out, x, dataclasses.replace(routing, topk_weights=squares), first)

    around(patch, layer, "with_zero_experts", twice)


@mistake("zero experts", NO_REPORT, "zero_experts_once_per_rank", tp_size=2, **ZERO)
def zero_experts_added_on_each_tp_rank(patch):
    def summed(real, out, x, routing, first):
        return real(real(out, x, routing, first), x, routing, first)

    around(patch, layer, "with_zero_experts", summed)


@mistake("zero experts", NO_REPORT, "zero_experts_as_first", **ZERO)
def zero_experts_taken_for_expert_0(patch):
    def first_for_all(real, ids, expert_map):
        local = real(ids, expert_map)
        return torch.where(ids >= len(expert_map), 0, local)

    around(patch, moe_kernel, "to_local_ids", first_for_all)
    around(patch, layer, "with_zero_experts", lambda real, out, *_: out)
