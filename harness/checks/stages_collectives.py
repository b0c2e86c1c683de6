"""Judge the stages between ranks: what this rank received, what was summed, the final output.

What a rank should receive is regenerated from the seed, not taken from the sending rank.
Collective: every rank calls `check` for the same call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks import stages_latent, stages_sums, token_order
from harness.checks.stage_bound import REACH, Expected, OfAllRanks, compare, rounding

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.checks.token_order import Arrival, Sent
    from harness.record.diagnosis import StageFinding


COUNTS = "counts of tokens"
SENT = "sent"  # label of a row: the number of its token in rank order
ARRIVED = frozenset({"ids", "weights", "input"})  # stages that tell which tokens arrived where


def check(handed: Handed, on_all_ranks: frozenset[str]) -> list[StageFinding]:
    """Return findings on latent, dispatch, input, finalize, restored, shared and out.

    on_all_ranks: stages that every rank hands out; all ranks call with the same ones.
    """
    is_latent = handed.subject.case.latent > 0
    needed = {*ARRIVED, *(("latent",) if is_latent else ())}
    if max(handed.sizes) == 0 or not on_all_ranks >= needed:
        return _after_experts(handed, on_all_ranks)
    projected = _gathered(handed, stages_latent.sent(handed)) if is_latent else None
    routing = _chosen_routing(handed)
    expected = token_order.sent(handed, *routing, projected)
    arrival = token_order.arrived(handed, expected)
    mismatched = None
    if arrival is not None:
        rows = arrival.expected.rows
        mismatched = token_order.mismatched_rows(handed, rows, arrival.rows)
    sent_correctly = _sent_correctly(handed, arrival, mismatched)
    if arrival is None or mismatched is None or sent_correctly is None:
        return _after_experts(handed, on_all_ranks)
    departing = [
        _deliveries(arrival, expected) or _routing(handed, arrival, routing[1]),
        _adapters(handed, arrival) if "adapters" in on_all_ranks else None,
        _input(handed, arrival, mismatched, sent_correctly, expected.rows.scale),
    ]
    if on_all_ranks >= {"combine", "finalize"}:
        departing.append(stages_sums.finalize(handed, arrival))
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


def _sent_correctly(
    handed: Handed, arrival: Arrival | None, mismatched: Tensor | None
) -> Tensor | None:
    """Return [S] bool: whether each token's input was correct where it was sent from. Collective.

    It was if it arrived so at its own rank, or anywhere if its own rank does not compute it.
    mismatched: [r] bool, on this rank. None on every rank if one does not know the order of rows.
    """
    known = torch.tensor([mismatched is not None], dtype=torch.int32, device=handed.ids.device)
    if not bool(handed.group.all_gather(known).all()):
        return None
    assert arrival is not None
    assert mismatched is not None
    total = sum(handed.sizes)
    arrivals = torch.zeros((2, total), dtype=torch.int32, device=known.device)  # right, wrong
    for i, is_it in enumerate((~mismatched, mismatched)):
        arrivals[i, arrival.tokens[is_it]] = 1
    by_rank = handed.group.all_gather(arrivals).view(-1, 2, total)
    sizes = torch.tensor(handed.sizes, device=known.device)
    source_rank = torch.arange(len(sizes), device=known.device).repeat_interleave(sizes)
    right_at_own, wrong_at_own = by_rank[source_rank, :, torch.arange(total, device=known.device)].T
    anywhere = by_rank[:, 0].any(dim=0)
    return torch.where((right_at_own + wrong_at_own) > 0, wrong_at_own == 0, anywhere)


def _gathered(handed: Handed, values: Tensor) -> Tensor:
    """Gather values [T, C] of each rank's tokens to [S, C], in rank order. Collective."""
    longest = max(handed.sizes)
    padded = torch.nn.functional.pad(values, (0, 0, 0, longest - len(values)))
    parts = handed.group.all_gather(padded).view(len(handed.sizes), longest, -1)
    return torch.cat([part[:n] for part, n in zip(parts, handed.sizes, strict=True)])


def _labels(handed: Handed, arrival: Arrival) -> dict[str, Tensor]:
    """Return each gathered row, and the rank that sent it."""
    sizes = torch.tensor(handed.sizes, device=arrival.rows.device)
    ranks = torch.tensor(handed.ranks, device=arrival.rows.device)
    return {"rows": arrival.rows, "ranks": ranks.repeat_interleave(sizes)[arrival.tokens]}


def _deliveries(arrival: Arrival, expected: Sent) -> StageFinding | None:
    """Compare how often each token with an expert here arrived: once, or it counts twice."""
    tokens, times = token_order.deliveries(arrival, expected)
    once = Expected(
        value=torch.ones((len(tokens), 1), device=times.device),
        tolerance=torch.zeros(1, device=times.device),
    )
    of_slots = 1 if arrival.slots is None else expected.ids.shape[1]
    experts_here = (expected.ids >= 0).sum(dim=1)[tokens // of_slots]
    labels = {"rows": tokens, "experts here": experts_here}
    return compare("dispatch", times[:, None], once, labels, noun=COUNTS)


def _routing(handed: Handed, arrival: Arrival, weights_sent: Tensor) -> StageFinding | None:
    """Compare ids in all rows (-1 on padding), and weights of this rank's experts."""
    at, expected = arrival.rows, arrival.expected
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
    labels = {**_labels(handed, arrival), "tokens": arrival.tokens}
    wrong = compare("dispatch", received, weights, labels, noun="router weights")
    if wrong is None or handed.subject.case.weights_input:
        return wrong
    return wrong.among(_of_all_ranks(handed, weights_sent))


def _adapters(handed: Handed, arrival: Arrival) -> StageFinding | None:
    """Compare the adapter that came with each token. Collective."""
    adapters = handed.call.tokens.adapters
    if adapters is None:
        return None
    expected = _gathered(handed, adapters[:, None]).float()[arrival.tokens]
    received = handed.stages["adapters"].value[arrival.rows][:, None]
    exactly = Expected(value=expected, tolerance=torch.zeros(1, device=received.device))
    return compare("dispatch", received, exactly, _labels(handed, arrival), noun="adapters")


def _input(
    handed: Handed,
    arrival: Arrival,
    mismatched: Tensor,
    sent_correctly: Tensor,
    of_all: Tensor | None,
) -> StageFinding | None:
    """Compare the received inputs. of_all: the scales of all tokens, for the finding.

    Blame dispatch if the sender had the row right, or if it is another token's row; else `input`.
    """
    if not bool(mismatched.any()):
        return None
    received, rows = token_order.received_rows(handed, arrival.rows), arrival.expected.rows
    is_moved = _is_another_row(received.codes[mismatched], rows.codes)
    was_right = bool((mismatched & sent_correctly[arrival.tokens]).any())
    stage = "dispatch" if is_moved or was_right else "input"
    labels = {**_labels(handed, arrival), SENT: arrival.tokens}
    exactly = received.codes.new_zeros(1)
    finding = compare(stage, received.codes, Expected(value=rows.codes, tolerance=exactly), labels)
    if finding is not None or received.scale is None or rows.scale is None:
        return finding
    expected_scale = Expected(
        value=rows.scale.broadcast_to(received.codes.shape), tolerance=exactly
    )
    shape = received.codes.shape
    wrong = compare(
        stage, received.scale.broadcast_to(shape), expected_scale, labels, noun="scales"
    )
    if wrong is None or of_all is None or of_all.ndim < 2:
        return wrong
    return wrong.among(_of_all_ranks(handed, of_all.broadcast_to(len(handed.sent), shape[1])))


def _of_all_ranks(handed: Handed, values: Tensor) -> OfAllRanks:
    """Return what the tokens of all ranks should have, values [S, C] in the order of ranks."""
    rows = [torch.arange(size, device=values.device) for size in handed.sizes]
    every = torch.arange(len(values), device=values.device)
    return OfAllRanks.joined(values, handed.ranks, rows, every)


def _is_another_row(received: Tensor, expected: Tensor, limit: int = 4) -> bool:
    """Tell whether one of the first `limit` received rows is the expected row of another token."""
    return any(bool((expected == row).all(dim=1).any()) for row in received[:limit])


def _after_experts(handed: Handed, on_all_ranks: frozenset[str]) -> list[StageFinding]:
    findings = [*stages_latent.check(handed), _shared(handed)]
    if on_all_ranks >= {stages_latent.last(handed), "out"}:
        findings.append(stages_sums.out(handed))
    return [finding for finding in findings if finding is not None]


def _shared(handed: Handed) -> StageFinding | None:
    """Compare this rank's part of the shared experts' output, on at most 16 rows.

    Where one scale spans all rows, all are computed: a sample has another scale.
    """
    if not handed.has("shared"):
        return None
    rows = handed.sampled(handed.rank)
    if len(rows) == 0:
        return None
    truth = handed.subject.reference.shared
    assert truth is not None, "stage `shared` was recorded, but the layer has no shared experts"
    layout, dtype = handed.subject.case.layout, handed.subject.case.dtype
    tp_rank = 0 if truth.shards == 1 else layout.tp_rank(handed.rank)
    computed = handed.defined(handed.rank) if truth.spans_rows else rows
    parts = truth.stage(handed.call.tokens.x[computed].float(), tp_rank)
    is_compared = torch.isin(computed, rows)
    value, sigma, doubt = (part[is_compared] for part in parts)
    tolerance = REACH * sigma + doubt
    tolerance = tolerance + rounding(value.abs() + tolerance, dtype)
    if handed.exact:
        tolerance = torch.zeros_like(tolerance)
    actual = handed.stages["shared"].value[rows]
    return compare("shared", actual, Expected(value=value, tolerance=tolerance), {"rows": rows})
