"""What ranks do in the tests of adapters of released packages: compare them with our own members.

Nobody can run the packages here: `package_stand_ins` does what they document.
"""

from __future__ import annotations

import torch

from moe.all2all import ALL2ALL
from moe.spec import BATCHED
from moe.types import Routing
from tests.moe import stack_ranks
from tests.moe.all2all import package_stand_ins

EXPERTS = 5  # of which ranks hold unlike numbers


def sent(rank: int, count: int, kind: str):
    """Rows of a rank, whose slots have experts of the group, no expert, or one outside of it."""
    x, _ = stack_ranks.sent_by(rank, count, kind)
    token = torch.arange(count, dtype=torch.int32)[:, None]
    first = (token + rank) % (EXPERTS + 1)
    ids = torch.cat([first, (first + 2) % EXPERTS, torch.full_like(first, -1)], dim=1)
    ids[:, 0] = torch.where(ids[:, 0] == EXPERTS, EXPERTS + 7, ids[:, 0])
    ids[2::4] = -1  # padding rows
    weights = 2.0 ** (-(ids.float() % 3) - token)
    return x, Routing(topk_ids=ids, topk_weights=weights)


def _ids_here(member, got):
    """Ids and weights of the arrived rows; -1 and 0 for experts of other ranks."""
    held = member.held_by(got.routing.topk_ids)[member.group.rank]
    ids = torch.where(held, got.routing.topk_ids.int(), -1)
    return ids, torch.where(held, got.routing.topk_weights, 0.0)


def _rows(member, got):
    """What is known of each row in use, by its token (and slot)."""
    ids, weights = _ids_here(member, got)
    slots = torch.zeros_like(got.tokens) if got.slots is None else got.slots
    rows = {}
    for i in (ids >= 0).any(dim=1).nonzero()[:, 0].tolist():
        codes = (
            got.x.codes[i].view(torch.uint8) if got.x.codes.element_size() == 1 else got.x.codes[i]
        )
        scale = got.x.scale[i].tolist() if got.x.format.has_row_scales else None
        key = int(got.tokens[i]), int(slots[i])
        assert key not in rows, "each arrives once"
        rows[key] = ids[i].tolist(), weights[i].tolist(), codes.tolist(), scale
    return rows


def _partial(member, got):
    """Outputs that name rank and token, exact in bf16 sums; NaN in rows that are not in use."""
    ids, _ = _ids_here(member, got)
    value = (got.tokens.float() + 1) * (1 + member.group.rank)
    used = (ids >= 0).any(dim=1)
    return (
        torch.where(used, value, torch.nan)
        .bfloat16()[:, None]
        .expand(got.x.codes.shape)
        .contiguous()
    )


def _moved(name: str, rank: int, counts: tuple[int, ...], kind: str):
    member = stack_ranks.made(name, experts=EXPERTS)
    results = []
    for more in (3, 0):  # the larger call leaves its rows in the buffers
        x, routing = sent(rank, counts[rank] + more, kind)
        got = member.prepare(x, routing)
        out = member.finalize(_partial(member, got), got)
        is_valid = (member.held_by(routing.topk_ids)).any(dim=0).any(dim=1)
        blocks = None if got.block_counts is None else got.block_counts.tolist()
        results.append((got.counts, blocks, _rows(member, got), out[is_valid].float().tolist()))
    return results


def compared(name: str, counts: tuple[int, ...], kind: str):
    """(what the adapter moved, what our own member moved) of this rank."""
    package_stand_ins.install()
    rank, _ = stack_ranks.here()
    own = "all_to_all_batched" if ALL2ALL.row(name).dispatch_format == BATCHED else "all_to_all"
    return _moved(name, rank, counts, kind), _moved(own, rank, counts, kind)
