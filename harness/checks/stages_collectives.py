"""The stages between ranks: what reached this rank, what was summed, what left the layer.

What should have reached a rank is made anew from the seed, not taken from another rank's word.
Collective: every rank calls `check` for the same call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks import token_order
from harness.checks.stage_bound import REACH, Right, StageFinding, compare, rounding
from harness.fixtures.layer_call import chosen_rows
from moe.layout import chunk
from moe.reference import formats
from moe.reference.error_propagation import gathered, intermediate
from moe.spec import Numerics

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.checks.token_order import Sent

_SHARED = Numerics(gemm1="model", activation="model", accumulation=2.0**-22)


def check(handed: Handed, on_all_ranks: frozenset[str]) -> list[StageFinding]:
    """dispatch, input, finalize, shared, out: only those that depart.

    on_all_ranks: stages that every rank hands out; all ranks call with the same ones.
    """
    if max(handed.sizes) == 0 or not on_all_ranks >= {"ids", "weights", "input"}:
        return _after(handed, on_all_ranks)
    right = token_order.sent(handed, *_chosen(handed))
    at = token_order.order(handed, right)
    wrong = None if at is None else token_order.wrong_rows(handed, right.rows, at)
    sound = _sound(handed, wrong)
    if at is None or wrong is None or sound is None:
        return _after(handed, on_all_ranks)
    found = [_routing(handed, right, at), _input(handed, right, at, wrong, sound)]
    if on_all_ranks >= {"combine", "finalize"}:
        found.append(_finalize(handed, at))
    return [f for f in found if f is not None] + _after(handed, on_all_ranks)


def _chosen(handed: Handed) -> tuple[Tensor, Tensor]:
    """ids [S, k] global and weights [S, k]: what each rank chose for its own tokens. Collective."""
    routing = handed.call.output.routing
    k = routing.topk_ids.shape[1]
    weights = routing.topk_weights.float().contiguous().view(torch.int32)
    told = _told(handed, torch.cat([routing.topk_ids.int(), weights], dim=1))
    return told[:, :k], told[:, k:].contiguous().view(torch.float32)


def _sound(handed: Handed, wrong: Tensor | None) -> Tensor | None:
    """[S] bool whether each token's input was right on its own rank. wrong: [S] bool here.

    None on all ranks where one of them cannot tell which row holds which token. Collective.
    """
    start = sum(handed.sizes[: handed.ranks.index(handed.rank)])
    tokens = len(handed.call.tokens.x)
    known = torch.tensor([wrong is not None], dtype=torch.int32, device=handed.ids.device)
    if not bool(handed.group.all_gather(known).all()):
        return None
    assert wrong is not None
    return ~_told(handed, wrong[start : start + tokens, None].int()).bool().flatten()


def _told(handed: Handed, mine: Tensor) -> Tensor:
    """[T, C] of this rank's tokens -> [S, C] of the group's, in rank order. Collective."""
    most = max(handed.sizes)
    padded = torch.nn.functional.pad(mine, (0, 0, 0, most - len(mine)))
    parts = handed.group.all_gather(padded).view(len(handed.sizes), most, -1)
    return torch.cat([part[:n] for part, n in zip(parts, handed.sizes, strict=True)])


def _labels(handed: Handed, at: Tensor) -> dict[str, Tensor]:
    """Each token's gathered row, and the rank that sent it."""
    sizes = torch.tensor(handed.sizes, device=at.device)
    ranks = torch.tensor(handed.ranks, device=at.device)
    return {"rows": at, "ranks": ranks.repeat_interleave(sizes)}


def _routing(handed: Handed, right: Sent, at: Tensor) -> StageFinding | None:
    """Local ids everywhere, -1 on padding rows; weights wherever an expert is here."""
    wanted = torch.full_like(handed.ids, -1)
    wanted[at] = right.ids
    nothing = torch.zeros(1, device=at.device)
    found = compare("dispatch", handed.ids, Right(value=wanted.float(), noise=nothing), what="ids")
    if found is not None:
        return found
    held = torch.where(right.ids >= 0, handed.stages["weights"].value[at].float(), 0.0)
    weights = Right(value=right.weights, noise=nothing)
    return compare("dispatch", held, weights, _labels(handed, at), what="router weights")


def _input(
    handed: Handed, right: Sent, at: Tensor, wrong: Tensor, sound: Tensor
) -> StageFinding | None:
    """Dispatch's fault where the owner had the row right or where it is another token's row."""
    if not bool(wrong.any()):
        return None
    held, rows = token_order.held_rows(handed, at), right.rows
    moved = _is_another_row(held.codes[wrong], rows.codes)
    stage = "dispatch" if moved or bool((wrong & sound).any()) else "input"
    labels, nothing = _labels(handed, at), held.codes.new_zeros(1)
    found = compare(stage, held.codes, Right(value=rows.codes, noise=nothing), labels)
    if found is not None or held.scale is None or rows.scale is None:
        return found
    wide = Right(value=rows.scale.broadcast_to(held.codes.shape), noise=nothing)
    return compare(stage, held.scale.broadcast_to(held.codes.shape), wide, labels, what="scales")


def _is_another_row(found: Tensor, right: Tensor, most: int = 4) -> bool:
    """Whether one of the first wrong rows is a right row of another token."""
    return any(bool((right == row).all(dim=1).any()) for row in found[:most])


def _finalize(handed: Handed, at: Tensor) -> StageFinding | None:
    """The sum over the group's ranks of what their experts gave for this rank's tokens.

    On at most 16 rows of each rank: all of them go to every rank. Collective.
    """
    picked = [chosen_rows(n, at.device) for n in handed.sizes]
    starts = [sum(handed.sizes[:i]) for i in range(len(handed.sizes))]
    tokens = torch.cat([start + p for start, p in zip(starts, picked, strict=True)])
    partial = _values(handed, "combine", len(handed.ids))[at[tokens]].float()
    told = handed.group.all_gather(partial).view(len(picked), -1, partial.shape[1])
    here = handed.ranks.index(handed.rank)
    start = sum(len(p) for p in picked[:here])
    own = picked[here]
    mine = told[:, start : start + len(own)]
    finalized = _values(handed, "finalize", len(handed.call.tokens.x))
    return _sum(handed, "finalize", finalized[own], mine, own)


def _values(handed: Handed, stage: str, rows: int) -> Tensor:
    """[rows, K] a stage's values; other shapes would make ranks wait for each other's rows.

    Raises ValueError for them.
    """
    value, shape = handed.stages[stage].value, [rows, handed.call.tokens.x.shape[1]]
    if list(value.shape) != shape:
        raise ValueError(f"stage {stage} was handed out as {list(value.shape)}; it must be {shape}")
    return value


def _sum(
    handed: Handed, stage: str, actual: Tensor, parts: Tensor, rows: Tensor
) -> StageFinding | None:
    """parts: [ranks, r, K]; each addition may round, in whatever order."""
    if len(rows) == 0:
        return None
    adds = len(parts) - 1
    size = parts.abs().sum(dim=0)
    noise = size * (adds * 2.0**-23)
    if adds:
        noise = noise + rounding(size, handed.subject.case.dtype, adds)
    if handed.exact:
        noise = torch.zeros_like(noise)
    right = Right(value=parts.sum(dim=0), noise=noise)
    return compare(stage, actual, right, {"rows": rows})


def _after(handed: Handed, on_all_ranks: frozenset[str]) -> list[StageFinding]:
    found = [_shared(handed)]
    if on_all_ranks >= {"finalize", "out"}:
        found.append(_out(handed))
    return [f for f in found if f is not None]


def _shared(handed: Handed) -> StageFinding | None:
    """This rank's share of the shared experts, on at most 16 rows."""
    if not handed.has("shared"):
        return None
    x = handed.call.tokens.x
    rows = chosen_rows(len(x), x.device)
    if len(rows) == 0:
        return None
    w13, w2 = _shared_shard(handed)
    dtype = handed.subject.case.dtype
    h = intermediate(x[rows].float(), w13, _SHARED, dtype, handed.subject.reference.activation)
    value = h.value @ w2.T
    power = w2.square()
    spread_out = (h.variance + h.jumps) @ power.T
    terms = h.value.shape[1]
    size = h.value.norm(dim=1, keepdim=True) * w2.norm(dim=1)
    spread_out = spread_out + gathered(_SHARED, terms) / terms * size.square()
    noise = REACH * spread_out.sqrt() + h.doubt @ w2.abs().T
    noise = noise + rounding(value.abs() + noise, dtype)
    if handed.exact:
        noise = torch.zeros_like(noise)
    actual = handed.stages["shared"].value[rows]
    return compare("shared", actual, Right(value=value, noise=noise), {"rows": rows})


def _shared_shard(handed: Handed) -> tuple[Tensor, Tensor]:
    """float32 [2s, K] and [K, s] this TP rank's columns; all under sequence parallelism."""
    assert handed.subject.shared is not None
    w13, w2 = (w.float() for w in handed.subject.shared)
    layout = handed.subject.case.layout
    if layout.sequence_parallel or layout.tp_size == 1:
        return w13, w2
    columns = chunk(w2.shape[1], layout.tp_size, layout.tp_rank(handed.rank))
    part = slice(columns.start, columns.stop)
    gate, up = w13.chunk(2, dim=0)
    return torch.cat([gate[part], up[part]]), w2[:, part]


def _out(handed: Handed) -> StageFinding | None:
    """finalize + shared, summed over the TP ranks, on at most 16 rows. Collective."""
    tp, dtype = handed.subject.layer.groups.tp, handed.subject.case.dtype
    tokens = len(handed.call.tokens.x)
    out = _values(handed, "out", tokens)
    rows = chosen_rows(len(out), out.device)
    if len(rows) == 0:  # then on every rank of the TP group, or nothing is summed over it
        return None
    mine = _values(handed, "finalize", tokens)[rows].float()
    if handed.has("shared"):
        both = mine + handed.stages["shared"].value[rows].float()
        mine = formats.on_grid(both, dtype)
    alone = handed.subject.case.layout.sequence_parallel
    parts = mine[None] if alone else tp.all_gather(mine).view(tp.size, *mine.shape)
    return _sum(handed, "out", out[rows], parts, rows)
