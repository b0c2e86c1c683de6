"""Mistakes in the low-rank adapters of experts: which one, where, and by how much."""

from __future__ import annotations

import dataclasses

import torch

from harness.fixtures import layer_build
from moe import moe_kernel
from moe.all2all.allgather_reducescatter import AllGatherReduceScatter
from moe.experts import base, torch_loop, triton
from tests.mistakes.mistake import SAYS, around, mistake

NO_REPORT = "none known"
KIND = "low-rank adapters"
LORA = {"adapters": 2, "experts": "torch_loop"}
EP = {"dp_size": 2, "use_ep": True}


def with_matrices(patch, change):
    """Build the layer with other matrices. change: returns fields from a rank's share."""

    def sharded(real, layer_spec, rank, of_all):
        share = real(layer_spec, rank, of_all)
        return dataclasses.replace(share, **change(share))

    around(patch, layer_build, "shard_adapters", sharded)


def with_choice(patch, change):
    """Give the experts other adapters of the tokens than arrived."""

    def chosen(real, routing, flat):
        return real(dataclasses.replace(routing, adapters=change(routing.adapters)), flat)

    around(patch, torch_loop, "_chosen", chosen)


@mistake(KIND, NO_REPORT, "lora_missing", **LORA)
def adapters_not_applied(patch):
    patch.setattr(torch_loop, "add_adapted", lambda *_: None)


@mistake(KIND, NO_REPORT, "lora_of_next_adapter", **LORA)
def adapters_numbered_from_one(patch):
    with_choice(patch, lambda own: torch.where(own < 0, own, (own + 1) % 2))


@mistake(KIND, NO_REPORT, "lora_of_neighbour", **LORA)
def adapters_off_by_a_token(patch):
    with_choice(patch, lambda own: own.roll(1))


@mistake(KIND, NO_REPORT, "lora_none_as_last", quant="fp8_tensor", n=128, **LORA)
def no_adapter_taken_for_the_last(patch):
    with_choice(patch, lambda own: torch.where(own < 0, 1, own))


@mistake(KIND, NO_REPORT, "lora_scale_missing", **LORA)
def alpha_over_rank_not_folded_in(patch):
    def unscaled(real, layer_spec, rank, of_all):
        return real(layer_spec, rank, dataclasses.replace(of_all, scale=None))

    around(patch, layer_build, "shard_adapters", unscaled)


@mistake(KIND, NO_REPORT, "lora_scale_twice", **LORA)
def alpha_over_rank_folded_in_twice(patch):
    def again(real, layer_spec, rank, of_all):
        share = real(layer_spec, rank, of_all)
        b13 = share.b13 * of_all.scale.view(-1, 1, 1, 1, 1).to(share.b13.dtype)
        return dataclasses.replace(
            share, b13=b13, b2=share.b2 * of_all.scale.view(-1, 1, 1, 1).to(share.b2.dtype)
        )

    around(patch, layer_build, "shard_adapters", again)


@mistake(KIND, NO_REPORT, "lora_second_missing", **LORA, **EP)
def adapter_of_the_second_product_skipped(patch):
    with_matrices(patch, lambda own: {"b2": torch.zeros_like(own.b2)})


@mistake(KIND, NO_REPORT, "lora_gate_only", tp_size=2, **LORA)
def adapter_applied_to_gate_alone(patch):
    def gate(own):
        b13 = own.b13.clone()
        b13[:, :, 1] = 0
        return {"b13": b13}

    with_matrices(patch, gate)


@mistake(KIND, NO_REPORT, "lora_halves_swapped", adapters=2, experts="triton")
def adapters_of_gate_and_up_exchanged(patch):
    def swapped(real, held):
        a, b = real(held)
        return a.flip(2), b.flip(2)

    around(patch, triton.adapters, "first", swapped)


@mistake(KIND, NO_REPORT, "lora_of_next_expert", **LORA)
def adapters_stored_one_expert_off(patch):
    def moved(own):
        return {name: getattr(own, name).roll(-1, 1) for name in ("a13", "b13", "a2", "b2")}

    with_matrices(patch, moved)


@mistake(KIND, NO_REPORT, f"{SAYS}adapters differ", **LORA, **EP)
def adapters_gathered_in_another_order_than_tokens(patch):
    def reversed_ranks(real, self, x, routing):
        dispatched = real(self, x, routing)
        rows = max(dispatched.counts)
        numbers = dispatched.routing.adapters.view(-1, rows).flip(0).reshape(-1)
        changed = dataclasses.replace(dispatched.routing, adapters=numbers)
        return dataclasses.replace(dispatched, routing=changed)

    around(patch, AllGatherReduceScatter, "prepare", reversed_ranks)


@mistake(KIND, NO_REPORT, "lora_missing", tp_size=2, use_ep=True, **LORA)
def adapters_lost_with_the_local_ids(patch):
    def forgotten(real, self, routing):
        local = real(self, routing)
        return dataclasses.replace(local, adapters=torch.full_like(local.adapters, -1))

    around(patch, moe_kernel.MoEKernel, "_local", forgotten)


@mistake(KIND, NO_REPORT, "says:stage gemm1", adapters=2, experts="triton_batched")
def adapters_of_batches_read_by_slot(patch):
    def by_slot(real, batches, routing):
        right = real(batches, routing)
        token = batches.slots.long() % len(routing.adapters)
        wrong = torch.where(batches.slots < 0, -1, routing.adapters[token])
        return dataclasses.replace(right, adapters=wrong)

    around(patch, base, "with_adapters", by_slot)
