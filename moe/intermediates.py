"""Record intermediates of a layer, so that they can be judged stage by stage.

Inside `recording()` each call of `keep` stores a copy of a stage's value, so that members may reuse
their buffers; outside it does nothing. Stages, in order:

    chosen          [T, k]   their experts, to see whether somebody changes them later: not judged
    router          [T, k]   router weights of this rank's tokens
    latent          [T, L]   this rank's tokens, projected to the latent width, if there is one
    replicas        [T, k]   physical ids of the chosen replicas, of a layer with load balancing
    tokens          [G]      token of each gathered row, numbered over the ranks of the gather group
                             in rank order, -1 = padding; slots [G]: its slot, if a row has only one
    ids             [G, k]   local expert ids, -1 = not on this rank, or padding
    weights         [G, k]   router weights
    adapters        [G]      number of each token's low-rank adapter, -1 = none, if there are any
    input           [G, K]   codes of the experts' input; input_scale: float32 value of a code
    gemm1           [R, 2n]  gate, up
    activation      [R, n]   f(gate) * up, times the router weight if it multiplies it here
    second          [R, n]   codes of the second product's input; second_scale: the same
    gemm2           [R, K]   each expert's output
    weighted        [R, K]   times its router weight, of a member that hands out no gemm2
    combine         [G, K]   the weighted sum over this rank's experts
    finalize        [T, K]   the sum over the gather group
    restored        [T, K]   the same, projected back from the latent width
    shared          [T, K]   this rank's part of the shared experts
    out             [T, K]   the sum over the TP group, the layer's output

Of a latent layer K is L in all stages from input to finalize. G: gathered tokens, in any order; the
token of a row is identified by its values, unless `tokens` is recorded. R = G * k flat
(token, slot) rows; rows of slots without an expert on this rank are undefined.

Codes of four bits are recorded as they are packed, two in a byte, [G, K / 2] and [R, n / 2]. Scales
are recorded as float32 factors: those of e8m0 or e4m3 decoded, and divided by any global scale.

A stage that is not recorded, or has another shape (one row per slot, say), is judged by the output
only; so are codes without a scale, unless the scale is a calibrated one.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.byte_views import as_bytes, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

# Recorded by the layer before it calls the experts.
EXPERT_INPUTS = (
    *("chosen", "router", "latent", "replicas", "tokens", "slots", "ids", "weights", "adapters"),
    *("input", "input_scale"),
)
STAGES = (
    *(*EXPERT_INPUTS, "gemm1", "activation", "second", "second_scale", "gemm2"),
    *("weighted", "combine", "finalize", "restored", "shared", "out"),
)
# Stages with a row for each (token, slot).
_FLAT = ("gemm1", "activation", "second", "second_scale", "gemm2", "weighted")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Hold the tensor of a stage. rows: value[i] is flat row rows[i]; None: value[i] is row i."""

    value: Tensor
    rows: Tensor | None = None  # int64, as long as value


_kept: dict[str, Kept] | None = None


@contextmanager
def recording() -> Iterator[dict[str, Kept]]:
    """Record the stages that are kept inside; yield them by name. Not thread-safe."""
    global _kept
    before, _kept = _kept, {}
    try:
        yield _kept
    finally:
        _kept = before


@contextmanager
def recording_part() -> Iterator[dict[str, Kept]]:
    """Record the stages kept inside apart, for `keep_joined`; nothing if nobody records."""
    if _kept is None:
        yield {}
        return
    with recording() as part:
        yield part


@contextmanager
def suspended() -> Iterator[None]:
    """Record nothing inside: what is kept there belongs to parts of a call. Not thread-safe."""
    global _kept
    before, _kept = _kept, None
    try:
        yield
    finally:
        _kept = before


def is_recording() -> bool:
    """Return whether stages are recorded, so that a backend must store what it could fuse away."""
    return _kept is not None


def keep(
    stage: str, value: Tensor | None, rows: Tensor | None = None, *, copy: bool = True
) -> None:
    """Record a stage's value inside `recording()`; None records nothing.

    The last value of a name wins. For inputs to the experts the first one wins, so that a backend
    cannot overwrite the layer's. copy: False avoids the copy of a value that was created in this
    call and is not written again.
    """
    if _kept is not None and value is not None:
        assert stage in STAGES, f"no stage is called {stage!r}"
        if stage in EXPERT_INPUTS and stage in _kept:
            return
        if copy:
            value, rows = value.clone(), None if rows is None else rows.clone()
        _kept[stage] = Kept(value=value, rows=rows)


def keep_joined(parts: Sequence[dict[str, Kept]], counts: Sequence[Sequence[int]]) -> None:
    """Record the stages of calls that served some tokens each as those of one call.

    parts: the recorded stages of each. counts: the tokens of each rank of the gather group in each
    call. Rows follow each other in the order of the calls.
    """
    if _kept is None:
        return
    offset = 0
    flat: list[dict[str, Kept]] = []
    for part in parts:
        flat.append({name: _moved(part[name], offset) for name in _FLAT if name in part})
        offset += part["ids"].value.numel() if "ids" in part else 0
    for name in STAGES:
        kept = [part[name] for part in (flat if name in _FLAT else parts) if name in part]
        if not kept or (name not in _FLAT and len(kept) < len(parts)):
            continue
        if kept[0].value.dim() == 0:  # a scale of all rows
            keep(name, kept[0].value)
            continue
        values = [k.value for k in kept]
        if name == "tokens":
            values = [_renumbered(v, i, counts) for i, v in enumerate(values)]
        rows = [k.rows for k in kept if k.rows is not None]
        keep(name, joined(values), rows=torch.cat(rows) if rows else None, copy=False)


def _moved(kept: Kept, offset: int) -> Kept:
    """Return flat rows with the numbers that they have after `offset` others."""
    if kept.value.dim() == 0:
        return kept
    rows = torch.arange(len(kept.value), device=kept.value.device)
    rows = rows if kept.rows is None else kept.rows
    return Kept(value=kept.value, rows=rows + offset)


def _renumbered(tokens: Tensor, number: int, counts: Sequence[Sequence[int]]) -> Tensor:
    """Return the numbers of tokens over all calls, of those over the ranks in one call."""
    table = torch.tensor(counts, device=tokens.device)
    ends = table[number].cumsum(dim=0)
    rank = torch.searchsorted(ends, tokens.long().clamp(min=0), right=True)
    rank = rank.clamp(max=len(ends) - 1)
    of_rank = table.sum(dim=0).cumsum(dim=0) - table.sum(dim=0) + table[:number].sum(dim=0)
    moved = tokens + (of_rank - (ends - table[number]))[rank]
    return torch.where(tokens >= 0, moved, -1).to(tokens.dtype)


def keep_batched(stage: str, value: Tensor | None, slots: Tensor) -> None:
    """Record a stage of a backend that works on batches; None records nothing.

    value: [e * C, ...] by batched row. slots: [e, C] flat row of each, -1 for rows not in use.
    Tensors without values, whose rows in use nobody knows, are not recorded.
    """
    if _kept is not None and value is not None and not value.is_meta:
        flat = slots.reshape(-1)
        used = flat >= 0
        raw = as_bytes(value)
        keep(stage, raw[used].view(value.dtype), rows=flat[used].long(), copy=False)
