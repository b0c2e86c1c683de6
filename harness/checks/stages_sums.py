"""Judge the sums between ranks: over the gather group, and over the TP group to the final output.

Collective: every rank calls each function for the same call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks import stages_latent
from harness.checks.stage_bound import Expected, OfAllRanks, compare, rounding
from moe.reference import formats
from moe.reference.total import passed_through

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_bound import WrongStage
    from harness.checks.stage_record import Handed
    from harness.checks.token_order import Arrival
    from harness.record.diagnosis import StageFinding


def finalize(handed: Handed, arrival: Arrival) -> StageFinding | None:
    """Compare the sum of the group's partial results for this rank's tokens. Collective.

    Uses at most 16 rows of each rank, since they are gathered on every rank.
    """
    sampled = [handed.sampled(rank) for rank in handed.ranks]
    starts = [sum(handed.sizes[:i]) for i in range(len(handed.sizes))]
    tokens = torch.cat([start + rows for start, rows in zip(starts, sampled, strict=True)])
    partial = _sums(handed, arrival, tokens)
    if partial.shape[2] == 0:  # on every rank
        return None
    gathered = handed.group.all_gather(partial).view(len(sampled), *partial.shape)
    group_rank = handed.ranks.index(handed.rank)
    start = sum(len(rows) for rows in sampled[:group_rank])
    local_rows = sampled[group_rank]
    local = gathered[:, :, :, start : start + len(local_rows)]
    finalized = _values(handed, "finalize", len(handed.call.tokens.x))[local_rows]
    sums, size = local[:, 0], local[:, 1].sum(dim=(0, 1))
    by_slot = sums.sum(dim=0) if sums.shape[1] > 1 else None
    wrong = _sum(
        *(handed, "finalize", finalized, sums.sum(dim=1), local_rows), size=size, by_slot=by_slot
    )
    if wrong is None:
        return None
    sums_of_all = gathered[:, 0].sum(dim=(0, 1))
    return wrong.among(OfAllRanks.joined(sums_of_all, handed.ranks, sampled, tokens))


def _sums(handed: Handed, arrival: Arrival, tokens: Tensor) -> Tensor:
    """Return [2, P, t, K] float32, what this rank's experts add to these tokens of the group.

    First the sums, then those of the absolute values: a row of one slot each may cancel others. P
    is the number of a token's slots where each row has one of them, else 1.
    """
    values = _values(handed, "combine", len(handed.ids))
    place = torch.full((sum(handed.sizes),), -1, dtype=torch.int64, device=tokens.device)
    place[tokens] = torch.arange(len(tokens), device=tokens.device)
    at = place[arrival.tokens]
    is_asked = at >= 0
    rows = values[arrival.rows[is_asked]].float() * arrival.factors[is_asked, None]
    count = 1 if arrival.slots is None else handed.top_k_of_tokens
    if arrival.slots is not None:
        at = arrival.slots.clamp(min=0) * len(tokens) + at
    sums = torch.zeros((2, count * len(tokens), values.shape[1]), device=tokens.device)
    sums = sums.index_add_(1, at[is_asked], torch.stack([rows, rows.abs()]))
    return sums.view(2, count, len(tokens), values.shape[1])


def _values(handed: Handed, stage: str, rows: int) -> Tensor:
    """Return a stage's values [rows, K]; inside a latent layer [rows, L].

    Raises ValueError for another shape: ranks would wait for each other's rows.
    """
    layer_spec = handed.subject.case.layer_spec
    is_outside = stage in ("out", "restored")
    width = layer_spec.hidden if is_outside else layer_spec.expert_hidden
    value, shape = handed.stages[stage].value, [rows, width]
    if list(value.shape) != shape:
        raise ValueError(f"stage {stage} was handed out as {list(value.shape)}; it must be {shape}")
    return value


def _sum(
    handed: Handed,
    stage: str,
    actual: Tensor,
    parts: Tensor,
    rows: Tensor,
    passed: Tensor | None = None,
    size: Tensor | None = None,
    by_slot: Tensor | None = None,
) -> WrongStage | None:
    """Compare `actual` [r, K] with the sum of parts [ranks, r, K], added in any order.

    passed: [r, K] what zero experts add to that sum, or None. size: [r, K] the sum of the absolute
    values of all that is added; None: of the parts. by_slot: [k, r, K], the same sum over slots, if
    these are known.
    """
    if len(rows) == 0:
        return None
    adds = len(parts) - 1
    size, value = parts.abs().sum(dim=0) if size is None else size, parts.sum(dim=0)
    tolerance = size * (adds * 2.0**-23)
    if stage == "finalize" and handed.subject.reference.numerics.reduction != "model":
        tolerance = tolerance + size * (handed.top_k_of_tokens * 2.0**-23)
        tolerance = tolerance + rounding(value.abs() + tolerance, handed.subject.case.dtype)
    elif adds:
        tolerance = tolerance + rounding(size, handed.subject.case.dtype, adds)
    if passed is not None:
        value, size = value + passed, size + passed.abs()
        tolerance = tolerance + size * 2.0**-22
        tolerance = tolerance + rounding(value.abs() + tolerance, handed.subject.case.dtype)
    if handed.exact:
        tolerance = torch.zeros_like(tolerance)
    over, terms = ("ranks", parts) if by_slot is None else ("slots", by_slot)
    if passed is not None:
        over, terms = "zero experts", torch.stack([parts.sum(dim=0), passed])
    expected = Expected(value=value, tolerance=tolerance, terms=terms.transpose(0, 1), over=over)
    return compare(stage, actual, expected, {"rows": rows})


def out(handed: Handed) -> StageFinding | None:
    """Compare the routed + shared parts, summed over the TP ranks, and what zero experts add last.

    Uses at most 16 rows. Collective.
    """
    tp, dtype = handed.subject.layer.groups.tp, handed.subject.case.dtype
    tokens = len(handed.call.tokens.x)
    out = _values(handed, "out", tokens)
    rows = handed.sampled(handed.rank)
    if len(rows) == 0:  # on every rank of the TP group, unless nothing is summed over it
        return None
    local = _values(handed, stages_latent.last(handed), tokens)[rows].float()
    if handed.has("shared"):
        total = local + handed.stages["shared"].value[rows].float()
        local = formats.on_grid(total, dtype)
    is_alone = handed.subject.case.layout.sequence_parallel
    parts = local[None] if is_alone else tp.all_gather(local).view(tp.size, *local.shape)
    return _sum(handed, "out", out[rows], parts, rows, _passed(handed, rows))


def _passed(handed: Handed, rows: Tensor) -> Tensor | None:
    """Return [r, K] what zero experts add to these rows, or None."""
    case, routing = handed.subject.case, handed.call.output.routing
    if not case.zero_experts:
        return None
    pair = routing.topk_ids[rows], routing.topk_weights[rows]
    return passed_through(handed.call.tokens.x[rows].float(), *pair, case.num_experts)
