"""The stages between ranks: what reached this rank, what was summed, what left the layer.

What should have reached a rank is made anew from the seed, not taken from another rank's word.
Collective: every rank calls `check` for the same call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.scene import chosen_rows
from harness.tight import REACH, Right, StageFinding, compare, rounding
from moe.reference import formats
from moe.reference.noise import gathered, intermediate
from moe.spec import Numerics, chunk

if TYPE_CHECKING:
    from torch import Tensor

    from harness.handed import Handed

_SHARED = Numerics(gemm1="model", activation="model", accumulation=2.0**-22)


@dataclass(frozen=True, kw_only=True)
class _Arrived:
    """Of the S tokens of the group, in rank order.

    at: [S] their gathered rows. owners: [S] the ranks that sent them. codes: [S, K] float32 and
    scale, broadcastable to them: what their input should be.
    """

    at: Tensor
    owners: Tensor
    codes: Tensor
    scale: Tensor


def check(handed: Handed) -> list[StageFinding]:
    """dispatch, input, finalize, shared, out: only those that depart."""
    if max(handed.sizes) == 0:
        return _after(handed)
    arrived = _arrived(handed)
    wrong = _wrong_input(handed, arrived)
    word = _gathered_word(handed, wrong)
    if word is None:
        return _after(handed)
    ids, weights, sound = word
    found = _routing(handed, arrived, ids, weights)
    found.append(_input(handed, arrived, wrong, sound))
    found.append(_finalize(handed))
    return [f for f in found if f is not None] + _after(handed)


def _arrived(handed: Handed) -> _Arrived | None:
    segments = handed.segments()
    if segments is None:
        return None
    device = handed.ids.device
    x = handed.sent().float()
    fmt = handed.subject.reference.act_format
    codes, scale = x, x.new_ones(())
    if fmt.grid != "model":
        scale = formats.activation_scale(x, fmt, handed.subject.scales["a1_scale"])
        codes = formats.on_grid((x / scale).clamp(-fmt.top, fmt.top), fmt.grid)
    owners = [torch.full((n,), r) for r, n in zip(handed.ranks, handed.sizes, strict=True)]
    return _Arrived(
        at=torch.cat([torch.arange(s.start, s.stop, device=device) for s in segments]),
        owners=torch.cat(owners).to(device),
        codes=codes,
        scale=scale,
    )


def _found_input(handed: Handed, arrived: _Arrived) -> tuple[Tensor, Tensor]:
    """Codes [S, K] and scale, broadcastable to them, as this rank had them; if it says so."""
    codes = handed.rows("input", arrived.at)
    scale = handed.scales("input", arrived.at, codes.shape[1])
    return codes, arrived.scale if scale is None else scale


def _wrong_input(handed: Handed, arrived: _Arrived | None) -> Tensor | None:
    """[S] bool rows whose codes or scales are not what they should be, bit for bit."""
    if arrived is None:
        return None
    codes, scale = _found_input(handed, arrived)
    bad = ~(codes == arrived.codes)
    return (bad | ~(scale == arrived.scale)).any(dim=1)


def _gathered_word(handed: Handed, wrong: Tensor | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """ids [S, k] global, weights [S, k], sound [S]: what each rank chose for its own tokens, and
    whether its own rows' input was right on itself. None where a rank cannot tell. Collective.
    """
    routing = handed.call.output.routing
    most, k = max(handed.sizes), handed.top_k
    here = handed.ranks.index(handed.rank)
    start = sum(handed.sizes[:here])
    tokens = handed.sizes[here]
    word = torch.zeros((most, 2 * k + 2), dtype=torch.int32, device=handed.ids.device)
    word[:tokens, :k] = routing.topk_ids
    word[:tokens, k : 2 * k] = routing.topk_weights.float().contiguous().view(torch.int32)
    if wrong is not None:
        word[:tokens, 2 * k] = (~wrong[start : start + tokens]).int()
        word[:, 2 * k + 1] = 1
    told = handed.group.all_gather(word).view(len(handed.ranks), most, -1)
    if not bool(told[..., -1].all()):
        return None
    rows = torch.cat([part[:n] for part, n in zip(told, handed.sizes, strict=True)])
    weights = rows[:, k : 2 * k].contiguous().view(torch.float32)
    return rows[:, :k], weights, rows[:, 2 * k] > 0


def _routing(
    handed: Handed, arrived: _Arrived | None, ids: Tensor, weights: Tensor
) -> list[StageFinding | None]:
    """Local ids everywhere, -1 on padding rows; weights wherever an expert is here."""
    assert arrived is not None
    case = handed.subject.case
    here = case.layout.experts_of(handed.rank, case.num_experts)
    local = ids.long() - here.start
    local = torch.where((local >= 0) & (local < len(here)), local, -1)
    wanted = torch.full_like(handed.ids, -1)
    wanted[arrived.at] = local
    nothing = torch.zeros(1, device=ids.device)
    found = compare("dispatch", handed.ids, Right(value=wanted.float(), noise=nothing), what="ids")
    used = local >= 0
    held = handed.stages["weights"].value[arrived.at].float()
    value = torch.where(used, weights, 0.0)
    labels = {"rows": arrived.at, "ranks": arrived.owners}
    right = Right(value=value, noise=nothing)
    other = compare("dispatch", torch.where(used, held, 0.0), right, labels, what="router weights")
    return [found or other]


def _input(
    handed: Handed, arrived: _Arrived | None, wrong: Tensor | None, sound: Tensor
) -> StageFinding | None:
    """Dispatch's fault where the owner had the row right or where it is another token's row."""
    assert arrived is not None
    assert wrong is not None
    if not bool(wrong.any()):
        return None
    codes, scale = _found_input(handed, arrived)
    moved = _is_another_row(codes[wrong], arrived.codes)
    stage = "dispatch" if moved or bool((wrong & sound).any()) else "input"
    labels = {"rows": arrived.at, "ranks": arrived.owners}
    nothing = codes.new_zeros(1)
    right = Right(value=arrived.codes, noise=nothing)
    found = compare(stage, codes, right, labels)
    if found is not None:
        return found
    wide = arrived.scale.broadcast_to(codes.shape)
    right = Right(value=wide, noise=nothing)
    return compare(stage, scale.broadcast_to(codes.shape), right, labels, what="scales")


def _is_another_row(found: Tensor, right: Tensor, most: int = 4) -> bool:
    """Whether one of the first wrong rows is a right row of another token."""
    return any(bool((right == row).all(dim=1).any()) for row in found[:most])


def _finalize(handed: Handed) -> StageFinding | None:
    """The sum over the group's ranks of what their experts gave for this rank's tokens.

    On at most 16 rows of each rank: all of them go to every rank. Collective.
    """
    segments = handed.segments()
    if segments is None or not handed.has("combine", "finalize"):
        return None
    device = handed.ids.device
    picked = [s.start + chosen_rows(len(s), device) for s in segments]
    partial = handed.stages["combine"].value
    told = handed.group.all_gather(partial[torch.cat(picked)])
    told = told.view(len(segments), -1, partial.shape[1]).float()
    here = handed.ranks.index(handed.rank)
    start = sum(len(p) for p in picked[:here])
    mine = told[:, start : start + len(picked[here])]
    own = chosen_rows(handed.sizes[here], device)
    return _sum(handed, "finalize", handed.stages["finalize"].value[own], mine, own)


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


def _after(handed: Handed) -> list[StageFinding]:
    found = [_shared(handed), _out(handed)]
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
    h = intermediate(x[rows].float(), w13, _SHARED, dtype)
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
    if not handed.has("finalize", "out"):
        return None
    tp, dtype = handed.subject.layer.groups.tp, handed.subject.case.dtype
    out = handed.stages["out"].value
    rows = chosen_rows(len(out), out.device)
    if len(rows) == 0:  # then on every rank of the TP group, or nothing is summed over it
        return None
    mine = handed.stages["finalize"].value[rows].float()
    if handed.has("shared"):
        both = mine + handed.stages["shared"].value[rows].float()
        mine = formats.on_grid(both, dtype)
    alone = handed.subject.case.layout.sequence_parallel
    parts = mine[None] if alone else tp.all_gather(mine).view(tp.size, *mine.shape)
    return _sum(handed, "out", out[rows], parts, rows)
