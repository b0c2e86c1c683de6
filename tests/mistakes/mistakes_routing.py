"""Mistakes in the choice of experts, in ids, and in the router's weights."""

from __future__ import annotations

import dataclasses
import functools

import torch

from moe import moe_kernel
from moe.experts import torch_monolithic
from moe.experts.torch_grouped import TorchGroupedExperts
from moe.routers.softmax.member import SoftmaxTopK
from moe.types import Routing
from tests.mistakes.expert_maps import first, moved
from tests.mistakes.mistake import around, mistake

EP = {"dp_size": 2, "use_ep": True}


def routed(patch, change):
    """Change what the experts are told: `change(ids, weights) -> (ids, weights)`."""

    def apply(real, self, x, routing):
        ids, weights = change(routing.topk_ids, routing.topk_weights)
        return real(self, x, Routing(topk_ids=ids, topk_weights=weights))

    around(patch, TorchGroupedExperts, "apply", apply)


def chosen(patch, change, member=SoftmaxTopK):
    """Change the router: `change(real, logits, k, renormalize) -> Routing`."""

    def route(real, self, logits, k, renormalize):
        return change(functools.partial(real, self), logits, k, renormalize=renormalize)

    around(patch, member, "__call__", route)


@mistake(
    "renormalisation", "vLLM #37605", "renormalisation_missing", "says:routing: .* wrong weights"
)
def renormalisation_missing(patch):
    chosen(patch, lambda real, logits, k, renormalize: real(logits, k, renormalize=False))


@mistake(
    "renormalisation",
    "FI #3946",
    "renormalisation_extra",
    "says:routing: .* wrong weights",
    renormalize=False,
)
def renormalised_though_not_asked(patch):
    chosen(patch, lambda real, logits, k, renormalize: real(logits, k, renormalize=True))


@mistake("scaling factor twice", "vLLM #45037", "doubled")
def routed_scale_applied_again(patch):
    routed(patch, lambda ids, weights: (ids, weights * 2))


@mistake("wrong scoring function", "FI #3303", "weights_sigmoid", "says:routing: .* wrong weights")
def sigmoid_instead_of_softmax(patch):
    def sigmoid(real, logits, k, renormalize):
        weights, ids = torch.sigmoid(logits.float()).topk(k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return Routing(topk_ids=ids.int(), topk_weights=weights)

    chosen(patch, sigmoid)


@mistake(
    "uninitialised bias",
    "SGLang #10440",
    "says:routing: .* leave out a better expert",
    num_experts=8,
)
def correction_bias_never_set(patch):
    def biased(real, logits, k, renormalize):
        garbage = torch.linspace(-3, 3, logits.shape[1]).roll(3)
        return real(logits.float() + garbage, k, renormalize=renormalize)

    chosen(patch, biased)


@mistake(
    "dtype of ids",
    "vLLM #20166, SGLang #25355",
    "ids_in_int8",
    num_experts=160,
    m=32,
    k=64,
)
def ids_in_eight_bits(patch):
    routed(patch, lambda ids, weights: (ids.to(torch.int8).int(), weights))


@mistake("one choice lost", "SGLang #36515", "last_slot_dropped", top_k=3)
def top_k_is_one_short(patch):
    def drop(ids, weights):
        return torch.cat([ids[:, :-1], torch.full_like(ids[:, -1:], -1)], dim=1), weights

    routed(patch, drop)


@mistake("equal logits", "aiter #1716", "best_expert_twice", top_k=3)
def one_expert_chosen_twice(patch):
    routed(patch, lambda ids, weights: (torch.cat([ids[:, :1], ids[:, :-1]], dim=1), weights))


@mistake("router weight", "xpu-kernels #66", "weights_uniform", "weights_ignored")
def router_weights_ignored(patch):
    routed(patch, lambda ids, weights: (ids, torch.full_like(weights, 1 / weights.shape[1])))


@mistake("router weight", "vLLM #43694", "weights_twice")
def router_weights_applied_twice(patch):
    routed(patch, lambda ids, weights: (ids, weights.square()))


@mistake("router weight", "xpu-kernels #66", "weights_reversed")
def router_weights_of_the_neighbouring_slot(patch):
    routed(patch, lambda ids, weights: (ids, weights.roll(1, 1)))


@mistake("router weight on the input", "vLLM #16744", "weights_on_input")
def router_weight_before_the_activation(patch):
    """Weights scale the rows that go into the first product; SiLU is not linear."""
    from moe.experts import sorted_rows, torch_grouped

    told = []

    def apply(real, self, x, routing):
        order, _ = sorted_rows.by_expert(routing.topk_ids, self.num_local)
        told.append(routing.topk_weights.flatten()[order])
        ones = torch.ones_like(routing.topk_weights)
        return real(self, x, Routing(topk_ids=routing.topk_ids, topk_weights=ones))

    def product(real, x, w, ends):
        if told:
            x = (x.float() * told.pop()[:, None]).to(x.dtype)
        return real(x, w, ends)

    around(patch, TorchGroupedExperts, "apply", apply)
    around(patch, torch_grouped, "_grouped_mm", product)


def localised(patch, change):
    """Change the look-up of local ids: `change(real, ids, expert_map) -> ids`."""
    around(patch, moe_kernel, "to_local_ids", change)


@mistake("expert map reads -1", "vLLM #48371", "absent_as_last", **EP)
def ids_of_other_ranks_wrap_to_the_last_expert(patch):
    def wrap(real, ids, expert_map):
        local = real(ids, expert_map)
        return torch.where((local < 0) & (ids >= 0), expert_map.max(), local)

    localised(patch, wrap)


@mistake("EP offset", "xpu-kernels #405", "global_ids_as_local", **EP)
def global_ids_taken_for_local(patch):
    localised(patch, lambda real, ids, expert_map: real(ids, moved(expert_map, to=0)))


@mistake("EP offset twice", "FI #3547", "offset_taken_twice", "rank_missing", **EP)
def expert_offset_subtracted_twice(patch):
    """Exactly zero on every rank but the first."""
    localised(patch, lambda real, ids, expert_map: real(ids - first(expert_map), expert_map))


@mistake("EP split", "vLLM #21497", "remainder_on_last_rank", num_experts=5, **EP)
def remainder_of_the_experts_on_the_last_rank(patch):
    """The map gives the odd expert to the last rank, the weights have it on the first."""

    def split(real, ids, expert_map):
        return real(ids, moved(expert_map, to=max(first(expert_map) - 1, 0)))

    localised(patch, split)


@mistake("stale expert map", "SGLang #39580", "stale_expert_map", num_experts=6, **EP)
def map_from_before_the_rebalance(patch):
    """Ranks have changed places since: each has the map of the other."""
    localised(patch, lambda real, ids, its: real(ids, moved(its, to=3 - first(its))))


@mistake("replicas counted twice", "SGLang #32962", "rank_twice", **EP)
def an_expert_computed_on_two_ranks(patch):
    """Every rank picks a replica for itself, so one rank's expert is summed twice."""

    def both(real, self, partial, dispatched):
        return real(self, partial * (2 if self.group.rank == 1 else 1), dispatched)

    from moe.all2all.allgather_reducescatter import AllGatherReduceScatter

    around(patch, AllGatherReduceScatter, "finalize", both)


@mistake(
    "routing method fixed in the backend",
    "vLLM #37128",
    "weights_softmax",
    experts="torch_monolithic",
    router="sigmoid",
)
def routing_method_always_softmax(patch):
    original = torch_monolithic.dense_routing

    def fixed(logits, method, bias):
        return original(logits, dataclasses.replace(method, router="softmax"), bias)

    patch.setattr(torch_monolithic, "dense_routing", fixed)


@mistake(
    "routing method fixed in the backend",
    "vLLM #37605",
    "renormalisation_extra",
    experts="torch_monolithic",
    renormalize=False,
)
def monolithic_always_renormalizes(patch):
    original = torch_monolithic.dense_routing

    def fixed(logits, method, bias):
        return original(logits, dataclasses.replace(method, renormalize=True), bias)

    patch.setattr(torch_monolithic, "dense_routing", fixed)


@mistake(
    "routing by the wrong experts' logits",
    "FI #3303",
    "global_ids_as_local",
    experts="torch_monolithic",
    **EP,
)
def monolithic_sees_its_own_experts_first(patch):
    """Local experts are taken for the first ones of the layer, as without an offset."""
    original = torch_monolithic.TorchMonolithicExperts.prepare_weights

    def without_offset(self, weights):
        original(self, weights)
        self.local = tuple(range(self.num_local))

    patch.setattr(torch_monolithic.TorchMonolithicExperts, "prepare_weights", without_offset)
