"""Mistakes in load balancing: which replica, where experts are, what moves with them."""

from __future__ import annotations

import dataclasses

import torch
import torch.distributed as dist

from moe.eplb import exchange
from moe.eplb.exchange import Transfer
from moe.eplb.replicas import ReplicaMap
from tests.mistakes.mistake import SAYS, around, mistake

NO_REPORT = "none known"
EPLB = {"eplb": "global", "redundant": 2, "m": 16}
EP = {"dp_size": 2, "use_ep": True}
TP = {"tp_size": 2, "use_ep": True}


@mistake("stale map after a rebalance", "SGLang #39580", "stale_replica_map", **EPLB, **EP)
def map_of_replicas_not_changed(patch):
    real, made = ReplicaMap.follow, set()

    def once(self, placement):
        if id(self.physical) not in made:
            made.add(id(self.physical))
            real(self, placement)

    patch.setattr(ReplicaMap, "follow", once)


@mistake("weights not moved", NO_REPORT, "weights_not_moved", **EPLB, **EP)
def map_of_replicas_changed_without_the_weights(patch):
    patch.setattr(exchange, "unpack", lambda *_: None)


def not_moved(patch, *words):
    """Leave the tensors whose names have one of these words where they are."""

    def unpack(real, tensors, slot, packed):
        left = {
            name: t[slot].clone() for name, t in tensors.items() if any(w in name for w in words)
        }
        real(tensors, slot, packed)
        for name, part in left.items():
            tensors[name][slot].copy_(part)

    around(patch, exchange, "unpack", unpack)


@mistake("scale move", "SGLang #13715", "scales_left_behind", quant="fp8_channel", **EPLB, **EP)
def scales_left_behind_by_a_move(patch):
    not_moved(patch, "scale")


@mistake(
    *("scale move, groups", "SGLang #13715", "scales_left_behind"),
    **{**EPLB, **EP, "n": 128, "quant": "int4_g32", "eplb_move": "overlapped"},
)
def scales_of_groups_left_behind(patch):
    not_moved(patch, "scale")


@mistake(
    "bias move",
    NO_REPORT,
    "biases_left_behind",
    expert_bias=True,
    experts="torch_loop",
    **EPLB,
    **EP,
)
def biases_left_behind_by_a_move(patch):
    not_moved(patch, "b13", "b2")


@mistake(
    "replicas that disagree",
    "SGLang #32962",
    "replicas_disagree",
    f"{SAYS}chose different replicas",
    **EPLB,
    **TP,
)
def replica_chosen_by_each_rank(patch):
    """From the row and the rank, in place of the row alone."""

    def route(real, self, routing):
        rank = dist.get_rank()
        ids = torch.cat([routing.topk_ids[:1]] * rank + [routing.topk_ids])
        sent = real(self, dataclasses.replace(routing, topk_ids=ids))
        return dataclasses.replace(sent, topk_ids=sent.topk_ids[rank:])

    around(patch, ReplicaMap, "route", route)


@mistake("replicas unused", NO_REPORT, f"{SAYS}got none of", **{**EPLB, "m": 64}, **EP)
def first_replica_for_all(patch):
    def route(real, self, routing):
        first = ReplicaMap(physical=self.physical, counts=torch.ones_like(self.counts))
        return real(first, routing)

    around(patch, ReplicaMap, "route", route)


@mistake(
    *(
        "slots overwritten before they are sent",
        NO_REPORT,
        "weights_not_moved",
        "stale_replica_map",
    ),
    **EPLB,
    **EP,
)
def slots_written_while_others_read_them(patch):
    """Written from what the sender's slot holds by then."""

    def start(real, self):
        real(self)
        dist.barrier()
        self._arriving = [
            dataclasses.replace(a, packed=exchange.pack(self._tensors, a.to_slots[0]))
            for a in self._arriving
        ]

    around(patch, Transfer, "start", start)


@mistake("logical ids as physical", NO_REPORT, "logical_ids_as_physical", **EPLB, **EP)
def logical_ids_sent_as_physical_ones(patch):
    patch.setattr(ReplicaMap, "route", lambda self, routing: routing)
