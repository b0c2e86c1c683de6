"""Judge the stages between ranks: what this rank received, what was summed, the final output.

What a rank should receive is regenerated from the seed, not taken from the sending rank.
Collective: every rank calls `check` for the same call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks import stages_latent, token_order
from harness.checks.stage_bound import REACH, Expected, compare, rounding
from moe.reference import formats
from moe.reference.total import passed_through

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.checks.token_order import Sent
    from harness.record.diagnosis import StageFinding


def check(handed: Handed, on_all_ranks: frozenset[str]) -> list[StageFinding]:
    """Return findings on latent, dispatch, input, finalize, restored, shared and out.

    on_all_ranks: stages that every rank hands out; all ranks call with the same ones.
    """
    is_latent = handed.subject.case.latent > 0
    needed = {"ids", "weights", "input", *(("latent",) if is_latent else ())}
    if max(handed.sizes) == 0 or not on_all_ranks >= needed:
        return _after_experts(handed, on_all_ranks)
    projected = _gathered(handed, stages_latent.sent(handed)) if is_latent else None
    expected = token_order.sent(handed, *_chosen_routing(handed), projected)
    at = token_order.order(handed, expected)
    mismatched = None if at is None else token_order.mismatched_rows(handed, expected.rows, at)
    sent_correctly = _sent_correctly(handed, mismatched)
    if at is None or mismatched is None or sent_correctly is None:
        return _after_experts(handed, on_all_ranks)
    departing = [
        _routing(handed, expected, at),
        _adapters(handed, at) if "adapters" in on_all_ranks else None,
        _input(handed, expected, at, mismatched, sent_correctly),
    ]
    if on_all_ranks >= {"combine", "finalize"}:
        departing.append(_finalize(handed, at))
    findings = [finding for finding in departing if finding is not None]
    return findings + _after_experts(handed, on_all_ranks)


def _chosen_routing(handed: Handed) -> tuple[Tensor, Tensor]:
    """Return sent ids and weights [S, k] that each rank chose for its tokens. Collective."""
    routing = handed.call.output.routing
    k = routing.topk_ids.shape[1]
    weights = routing.topk_weights.float().contiguous().view(torch.int32)
    ids = handed.sent_ids(routing.topk_ids).int()
    gathered = _gathered(handed, torch.cat([ids, weights], dim=1))
    return gathered[:, :k], gathered[:, k:].contiguous().view(torch.float32)


def _sent_correctly(handed: Handed, mismatched: Tensor | None) -> Tensor | None:
    """Return [S] bool: whether each token's input was correct on its own rank. Collective.

    mismatched: [S] bool, on this rank. None on every rank if one does not know the order of rows.
    """
    start = sum(handed.sizes[: handed.ranks.index(handed.rank)])
    tokens = len(handed.call.tokens.x)
    known = torch.tensor([mismatched is not None], dtype=torch.int32, device=handed.ids.device)
    if not bool(handed.group.all_gather(known).all()):
        return None
    assert mismatched is not None
    return ~_gathered(handed, mismatched[start : start + tokens, None].int()).bool().flatten()


def _gathered(handed: Handed, values: Tensor) -> Tensor:
    """Gather values [T, C] of each rank's tokens to [S, C], in rank order. Collective."""
    longest = max(handed.sizes)
    padded = torch.nn.functional.pad(values, (0, 0, 0, longest - len(values)))
    parts = handed.group.all_gather(padded).view(len(handed.sizes), longest, -1)
    return torch.cat([part[:n] for part, n in zip(parts, handed.sizes, strict=True)])


def _labels(handed: Handed, at: Tensor) -> dict[str, Tensor]:
    """Return each token's gathered row, and the rank that sent it."""
    sizes = torch.tensor(handed.sizes, device=at.device)
    ranks = torch.tensor(handed.ranks, device=at.device)
    return {"rows": at, "ranks": ranks.repeat_interleave(sizes)}


def _routing(handed: Handed, expected: Sent, at: Tensor) -> StageFinding | None:
    """Compare ids in all rows (-1 on padding), and weights of this rank's experts."""
    expected_ids = torch.full_like(handed.ids, -1)
    expected_ids[at] = expected.ids
    exactly = torch.zeros(1, device=at.device)
    finding = compare(
        "dispatch", handed.ids, Expected(value=expected_ids.float(), tolerance=exactly), noun="ids"
    )
    if finding is not None:
        return finding
    received = torch.where(expected.ids >= 0, handed.stages["weights"].value[at].float(), 0.0)
    weights = Expected(value=expected.weights, tolerance=exactly)
    return compare("dispatch", received, weights, _labels(handed, at), noun="router weights")


def _adapters(handed: Handed, at: Tensor) -> StageFinding | None:
    """Compare the adapter that came with each token. Collective."""
    chosen = handed.call.tokens.adapters
    if chosen is None:
        return None
    wanted = _gathered(handed, chosen[:, None]).float()
    received = handed.stages["adapters"].value[at][:, None]
    exactly = Expected(value=wanted, tolerance=torch.zeros(1, device=at.device))
    return compare("dispatch", received, exactly, _labels(handed, at), noun="adapters")


def _input(
    handed: Handed, expected: Sent, at: Tensor, mismatched: Tensor, sent_correctly: Tensor
) -> StageFinding | None:
    """Compare the received inputs.

    Blame dispatch if the sender had the row right, or if it is another token's row; else `input`.
    """
    if not bool(mismatched.any()):
        return None
    received, rows = token_order.received_rows(handed, at), expected.rows
    is_moved = _is_another_row(received.codes[mismatched], rows.codes)
    stage = "dispatch" if is_moved or bool((mismatched & sent_correctly).any()) else "input"
    labels, exactly = _labels(handed, at), received.codes.new_zeros(1)
    finding = compare(stage, received.codes, Expected(value=rows.codes, tolerance=exactly), labels)
    if finding is not None or received.scale is None or rows.scale is None:
        return finding
    expected_scale = Expected(
        value=rows.scale.broadcast_to(received.codes.shape), tolerance=exactly
    )
    return compare(
        stage,
        received.scale.broadcast_to(received.codes.shape),
        expected_scale,
        labels,
        noun="scales",
    )


def _is_another_row(received: Tensor, expected: Tensor, limit: int = 4) -> bool:
    """Tell whether one of the first `limit` received rows is the expected row of another token."""
    return any(bool((expected == row).all(dim=1).any()) for row in received[:limit])


def _finalize(handed: Handed, at: Tensor) -> StageFinding | None:
    """Compare the sum of the group's partial results for this rank's tokens. Collective.

    Uses at most 16 rows of each rank, since they are gathered on every rank.
    """
    sampled = [handed.sampled(rank) for rank in handed.ranks]
    starts = [sum(handed.sizes[:i]) for i in range(len(handed.sizes))]
    tokens = torch.cat([start + rows for start, rows in zip(starts, sampled, strict=True)])
    partial = _values(handed, "combine", len(handed.ids))[at[tokens]].float()
    if len(partial) == 0:  # on every rank
        return None
    gathered = handed.group.all_gather(partial).view(len(sampled), -1, partial.shape[1])
    group_rank = handed.ranks.index(handed.rank)
    start = sum(len(rows) for rows in sampled[:group_rank])
    local_rows = sampled[group_rank]
    local_parts = gathered[:, start : start + len(local_rows)]
    finalized = _values(handed, "finalize", len(handed.call.tokens.x))
    return _sum(handed, "finalize", finalized[local_rows], local_parts, local_rows)


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
) -> StageFinding | None:
    """Compare `actual` [r, K] with the sum of parts [ranks, r, K], added in any order.

    passed: [r, K] what zero experts add to that sum, or None.
    """
    if len(rows) == 0:
        return None
    adds = len(parts) - 1
    size = parts.abs().sum(dim=0)
    tolerance = size * (adds * 2.0**-23)
    if adds:
        tolerance = tolerance + rounding(size, handed.subject.case.dtype, adds)
    value = parts.sum(dim=0)
    if passed is not None:
        value, size = value + passed, size + passed.abs()
        tolerance = tolerance + size * 2.0**-22
        tolerance = tolerance + rounding(value.abs() + tolerance, handed.subject.case.dtype)
    if handed.exact:
        tolerance = torch.zeros_like(tolerance)
    expected = Expected(value=value, tolerance=tolerance)
    return compare(stage, actual, expected, {"rows": rows})


def _after_experts(handed: Handed, on_all_ranks: frozenset[str]) -> list[StageFinding]:
    findings = [*stages_latent.check(handed), _shared(handed)]
    if on_all_ranks >= {stages_latent.last(handed), "out"}:
        findings.append(_out(handed))
    return [finding for finding in findings if finding is not None]


def _shared(handed: Handed) -> StageFinding | None:
    """Compare this rank's part of the shared experts' output, on at most 16 rows."""
    if not handed.has("shared"):
        return None
    x = handed.call.tokens.x
    rows = handed.sampled(handed.rank)
    if len(rows) == 0:
        return None
    truth = handed.subject.reference.shared
    assert truth is not None, "stage `shared` was recorded, but the layer has no shared experts"
    layout, dtype = handed.subject.case.layout, handed.subject.case.dtype
    tp_rank = 0 if truth.shards == 1 else layout.tp_rank(handed.rank)
    value, sigma, doubt = truth.stage(x[rows].float(), tp_rank)
    tolerance = REACH * sigma + doubt
    tolerance = tolerance + rounding(value.abs() + tolerance, dtype)
    if handed.exact:
        tolerance = torch.zeros_like(tolerance)
    actual = handed.stages["shared"].value[rows]
    return compare("shared", actual, Expected(value=value, tolerance=tolerance), {"rows": rows})


def _out(handed: Handed) -> StageFinding | None:
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
