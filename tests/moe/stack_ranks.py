"""What ranks do in the tests of collectives: functions that `parallel_launch` can import."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist

from moe import guarded_buffers
from moe.all2all import ALL2ALL, peer_memory
from moe.all2all import shared_segment as shared_segment_of
from moe.all2all.make import holders_of
from moe.all2all.peer_memory import open_peer_memory
from moe.byte_views import as_bytes
from moe.collectives import Group, make_groups
from moe.errors import MoEError
from moe.formats import FORMATS
from moe.types import Activations, Dispatched, Routing

if TYPE_CHECKING:
    from moe.layout import Layout


def here() -> tuple[int, int]:
    return dist.get_rank(), dist.get_world_size()


def everyone(staged: bool = False) -> Group:
    rank, world = here()
    return Group(handle=dist.group.WORLD, size=world, rank=rank, staged=staged)


# --- groups


def group_members(layout: Layout, staged: bool):
    """(gather, tp) of this rank as (size, rank within, staged, global ranks that really met)."""
    rank, _ = here()
    groups = make_groups(layout, rank, staged=staged)
    mine = torch.tensor([rank])
    return tuple(
        (group.size, group.rank, group.staged, group.all_gather(mine).tolist())
        for group in (groups.gather, groups.tp)
    )


# --- collectives


def collectives(staged: bool):
    """Every collective on numbers that tell rank, row and column apart."""
    rank, world = here()
    group = everyone(staged)
    rows = torch.arange(6.0).view(2, 3) + 100 * rank
    parts = torch.arange(world * 2.0).view(world * 2, 1) + 10 * rank
    return {
        "gather": group.all_gather(rows),
        "gather_transposed": group.all_gather(rows.T),
        "scatter": group.reduce_scatter(parts.bfloat16()),
        "reduce": group.all_reduce(rows),
        "counts": group.gather_counts(3 * rank, torch.device("cpu")),
        "last": group.broadcast(parts, world - 1),
        "own": parts,  # a broadcast leaves it as it was
    }


def exchanged(staged: bool):
    """What arrives of all_to_all, where rank s sends (s + 2 d) % 3 rows to rank d; fp8 as bytes."""
    rank, world = here()
    group = everyone(staged)
    sent, received = (
        [(s + 2 * d) % 3 for s, d in pairs]
        for pairs in (
            [(rank, d) for d in range(world)],
            [(s, rank) for s in range(world)],
        )
    )
    rows = torch.cat([torch.full((n, 2), 10 * rank + d) for d, n in enumerate(sent)]).byte()
    as_fp8 = group.all_to_all(rows.view(torch.float8_e4m3fn), sent, received)
    nothing = group.all_to_all(rows[:0], [0] * world, [0] * world)
    return group.all_to_all(rows, sent, received), as_fp8.view(torch.uint8), tuple(nothing.shape)


def every_code(staged: bool):
    """All 256 codes of each one-byte format, rolled by rank: (sent, received, dtype) as bytes."""
    rank, _ = here()
    group = everyone(staged)
    codes = torch.arange(256, dtype=torch.uint8).roll(rank).view(-1, 2)
    found = []
    for dtype in (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.int8, torch.uint8):
        got = group.all_gather(codes.view(dtype))
        found.append((str(got.dtype) == str(dtype), got.view(torch.uint8)))
    return found


# --- all2all


def sent_by(rank: int, count: int, kind: str) -> tuple[Activations, Routing]:
    """`count` rows that name their rank and row, with scales of the kind's shape."""
    row = torch.arange(count, dtype=torch.int32)[:, None]
    ids = torch.cat([row + 100 * rank, row + 100 * rank + 50], dim=1)
    routing = Routing(topk_ids=ids, topk_weights=ids.float() / 7)
    pattern = (torch.arange(256) + rank + 3 * row).to(torch.uint8)  # every code, NaN included
    if kind == "model":
        return Activations(codes=(row + 100.0 * rank).expand(count, 4).bfloat16()), routing
    scale = {
        "fp8_static": torch.tensor(0.5),
        "fp8_group": row + torch.tensor([[0.25, 0.5]]) + rank,
        "int8_token": row + 0.75 + rank,
    }[kind]
    dtype = torch.int8 if kind == "int8_token" else torch.float8_e4m3fn
    x = Activations(codes=pattern.view(dtype), scale=scale.float(), format=FORMATS[kind])
    return x, routing


def made(name: str, group: Group | None = None, experts: int = 1000):
    """A member whose ranks hold the experts in turn."""
    group = everyone() if group is None else group
    member = ALL2ALL.load(name)(group)
    member.experts_of = tuple(tuple(range(r, experts, group.size)) for r in range(group.size))
    member.holders = holders_of(member.experts_of, experts)
    return member


EXPERTS = 5


def few_experts(rank: int, count: int, kind: str) -> tuple[Activations, Routing]:
    """Rows of `sent_by`, each with two of EXPERTS experts."""
    x, _ = sent_by(rank, count, kind)
    first = (torch.arange(count, dtype=torch.int32)[:, None] + rank) % EXPERTS
    ids = torch.cat([first, (first + 2) % EXPERTS], dim=1)
    return x, Routing(topk_ids=ids, topk_weights=0.1 + ids.float() / 7)


def _row(x: Activations, i: int) -> tuple[list, list]:
    """Codes of a row, as bytes or numbers, and its own scales."""
    codes = x.codes[i].view(torch.uint8) if x.codes.element_size() == 1 else x.codes[i]
    has_own = x.scale is not None and x.scale.ndim == 2
    return codes.tolist(), x.scale[i].tolist() if has_own else []


def wanted_blocks(counts: tuple[int, ...], kind: str, rank: int) -> list[list]:
    """For each expert of the rank the rows (token, slot, id, codes, scales) of its block."""
    blocks: dict[int, list] = {e: [] for e in range(rank, EXPERTS, len(counts))}
    number = 0
    for sender, count in enumerate(counts):
        x, routing = few_experts(sender, count, kind)
        for i in range(count):
            for slot, e in enumerate(routing.topk_ids[i].tolist()):
                if e in blocks:
                    blocks[e].append((number, slot, e, *_row(x, i)))
            number += 1
    return list(blocks.values())


def blocks(counts: tuple[int, ...], kind: str):
    """prepare() into blocks, twice: the first, larger call leaves its rows in the workspace."""
    rank, _ = here()
    member = made("all_to_all_batched", experts=EXPERTS)
    larger = tuple(count + 2 for count in counts)
    first = member.prepare(*few_experts(rank, larger[rank], kind))
    member.finalize(torch.ones(len(first.tokens), 4), first)
    got = member.prepare(*few_experts(rank, counts[rank], kind))
    room = sum(counts)
    rows: list[list] = [[] for _ in got.block_counts]
    for at in (got.tokens >= 0).nonzero().flatten().tolist():
        names = (int(got.tokens[at]), int(got.slots[at]), int(got.routing.topk_ids[at]))
        rows[at // room].append((*names, *_row(got.x, at)))
    is_used = torch.cat([torch.arange(room) < n for n in [*got.block_counts, 0]])
    assert torch.equal(got.routing.topk_ids[:, 0] >= 0, is_used[: len(got.tokens)])
    ones = bool((got.routing.topk_weights == 1).all())
    return {"rows": rows, "counts": got.block_counts.tolist(), "ones": ones}


def weighed(counts: tuple[int, ...]):
    """finalize() of outputs that are a third of the expert's id; NaN in rows not in use."""
    rank, _ = here()
    member = made("all_to_all_batched", experts=EXPERTS)
    got = member.prepare(*few_experts(rank, counts[rank], "model"))
    ids = got.routing.topk_ids.float()
    partial = torch.where(ids >= 0, ids / 3, torch.nan).bfloat16()
    return member.finalize(partial.expand(-1, 4).contiguous(), got).float()


def overflowing(capacity: int, more_on_last: int = 0) -> str:
    """The error, or none, of two ranks that send two rows each to expert 2."""
    rank, world = here()
    member = made("all_to_all_batched", experts=EXPERTS)
    member.capacity = capacity + (more_on_last if rank == world - 1 else 0)
    x, routing = sent_by(rank, 2, "model")
    ids = torch.tensor([[2, 0], [2, 1]], dtype=torch.int32)
    try:
        member.prepare(x, Routing(topk_ids=ids, topk_weights=routing.topk_weights))
    except MoEError as error:
        return str(error)
    return "no error"


def disagreeing(name: str, what: str) -> str:
    """The error of ranks of which the last passes something else: each rank's own text."""
    rank, world = here()
    x, routing = sent_by(rank, 2, "fp8_group")
    member = made(name)
    if what == "no room":
        member.capacity = -3
    elif rank == world - 1:
        if what == "width":
            x = x.replace(codes=x.codes[:, :128], scale=x.scale[:, :1])
        elif what == "slots":
            routing = Routing(
                topk_ids=routing.topk_ids[:, :1], topk_weights=routing.topk_weights[:, :1]
            )
        elif what == "map":
            member.experts_of = member.experts_of[::-1]
        elif what == "capacity":
            member.capacity = 0
        else:
            x, routing = sent_by(rank, 2, "model")
    try:
        member.prepare(x, routing)
    except MoEError as error:
        return str(error)
    return "no error"


def dispatched(name: str, counts: tuple[int, ...], kind: str):
    """prepare() on uneven ranks, as plain values (codes as bytes or float32)."""
    rank, _ = here()
    member = made(name)
    got = member.prepare(*sent_by(rank, counts[rank], kind))
    codes = got.x.codes
    return {
        "codes": codes.view(torch.uint8) if codes.element_size() == 1 else codes.float(),
        "dtype": str(codes.dtype),
        "scale": got.x.scale,
        "ids": got.routing.topk_ids,
        "weights": got.routing.topk_weights,
        "counts": got.counts,
        "tokens": got.tokens,
    }


def finalized(name: str, counts: tuple[int, ...], dtype: str):
    """finalize() of partial sums whose padding rows are NaN; each rank's own rows."""
    rank, _ = here()
    member = made(name)
    got = member.prepare(*sent_by(rank, counts[rank], "model"))
    real = got.routing.topk_ids.amax(dim=1) >= 0
    partial = got.routing.topk_ids[:, :1].float() * (rank + 1)
    partial[~real] = float("nan")
    out = member.finalize(partial.expand(-1, 8).to(getattr(torch, dtype)), got)
    return out.dtype == getattr(torch, dtype), out.float()


# --- memory that ranks share


def beside_all_to_all(calls: tuple[tuple[int, ...], ...], kind: str, capacity: int | None = None):
    """What symm_mem gives in each call beside all_to_all: names of what differs, guards, shapes.

    All calls are made by one member, and their buffers are poisoned and guarded.
    """
    rank, _ = here()
    put, plain = made("symm_mem"), made("all_to_all")
    put.capacity = capacity
    differs, shapes = [], []
    with guarded_buffers.poisoned():
        for counts in calls:
            x, routing = sent_by(rank, counts[rank], kind)
            numbers = torch.arange(counts[rank], dtype=torch.int32) - 1
            routing = dataclasses.replace(routing, adapters=numbers)
            got, wanted = put.prepare(x, routing), plain.prepare(x, routing)
            shapes.append(tuple(got.x.codes.shape))
            differs += [name for name in compared(got, wanted) if name]
            partial = got.tokens[:, None].float() / 3 + rank
            partial = torch.where(got.tokens[:, None] >= 0, partial, torch.nan).bfloat16()
            out = put.finalize(partial.expand(-1, 8).contiguous(), got)
            of_used = partial[got.tokens >= 0].expand(-1, 8).contiguous()
            if not torch.equal(out, plain.finalize(of_used, wanted)):
                differs.append("sums")
        return differs, guarded_buffers.broken_guards(), shapes


def compared(got: Dispatched, wanted: Dispatched) -> list[str]:
    """Names of what differs between two members' rows, without the rows that are not in use."""
    used = got.tokens >= 0
    if not torch.equal(used, (got.routing.topk_ids >= 0).any(dim=1)):
        return ["unused rows"]
    pairs = {
        "tokens": (got.tokens, wanted.tokens),
        "ids": (got.routing.topk_ids, wanted.routing.topk_ids),
        "weights": (got.routing.topk_weights, wanted.routing.topk_weights),
        "adapters": (got.routing.adapters, wanted.routing.adapters),
        "codes": (as_bytes(got.x.codes), as_bytes(wanted.x.codes)),
    }
    if wanted.x.scale is not None and wanted.x.scale.ndim == 2:
        pairs["scale"] = got.x.scale, wanted.x.scale
    same = {
        n: a.dtype == b.dtype and torch.equal(a[used].float(), b.float())
        for n, (a, b) in pairs.items()
    }
    return [name for name, is_same in same.items() if not is_same] + (
        [] if got.counts == wanted.counts else ["counts"]
    )


def two_calls_under_way() -> bool:
    """Whether two calls that take turns, three times, give what they give one after the other."""
    rank, _ = here()
    member, inputs = made("symm_mem"), [sent_by(rank, count, "model") for count in (3, 2)]

    def summed(got: Dispatched) -> torch.Tensor:
        return member.finalize(got.x.codes * (rank + 1), got)

    wanted = [summed(member.prepare(*given)) for given in inputs]
    for _ in range(3):
        first, second = (member.prepare(*given) for given in inputs)
        if not all(map(torch.equal, [summed(first), summed(second)], wanted)):
            return False
    return True


def too_many_for(capacity: int) -> str:
    """The error, or none, of ranks with one and two tokens."""
    rank, _ = here()
    member = made("symm_mem")
    member.capacity = capacity
    try:
        member.prepare(*sent_by(rank, 1 + rank, "model"))
    except MoEError as error:
        return str(error)
    return "no error"


def shared_segment(size: int):
    """(what each rank reads of all ranks' parts, files left by name) after a barrier."""
    rank, world = here()
    memory = open_peer_memory(everyone(), size, torch.device("cpu"))
    memory.own.fill_(rank + 1)
    memory.barrier()
    read = [ctypes.string_at(int(a), size) for a in memory.addresses]
    memory.barrier()
    ctypes.memset(int(memory.addresses[(rank + 1) % world]), 9, 1)  # the next rank's first byte
    memory.barrier()
    return [sorted(set(part)) for part in read], int(memory.own[0]), len(memory.own)


def mappings(size: int) -> tuple[list[str], int, list[str]]:
    """Names of mapped files of peer memory while it is held, its open files, names afterwards."""

    def seen() -> list[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return [" ".join(line.split()[5:]) for line in lines if "moe-peer" in line]

    before = len(list(Path("/proc/self/fd").iterdir()))
    memory = open_peer_memory(everyone(), size, torch.device("cpu"))
    held, files = seen(), len(list(Path("/proc/self/fd").iterdir())) - before
    del memory
    return held, files, seen()


def unmappable() -> str:
    """The error of all ranks when the last one cannot open the first one's memory."""
    rank, world = here()
    with pytest.MonkeyPatch.context() as patch:
        if rank == world - 1:
            patch.setattr(shared_segment_of, "_opened", lambda *_: (None, " (no such file)"))
        try:
            open_peer_memory(everyone(), 64, torch.device("cpu"))
        except MoEError as error:
            return str(error)
    return "no error"


def on_hosts(numbers: tuple[int, ...]) -> str:
    """The error of ranks that say they are on these hosts."""
    rank, _ = here()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer_memory, "host_number", lambda: numbers[rank])
        try:
            open_peer_memory(everyone(), 64, torch.device("cpu"))
        except MoEError as error:
            return str(error)
    return "no error"
