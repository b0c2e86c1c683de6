"""Find out which gathered row holds which token: an all2all may gather in any order.

A member may say it, in the stages `tokens` and `slots`, and must if some tokens do not arrive.
Otherwise rank order is tried first, since most members use it. If it does not explain the received
rows, rows are identified by their contents. If contents are ambiguous too, the order is unknown,
and dispatch is judged by the output alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.bits import row_sums
from moe.reference import formats

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Hold input rows. codes: [r, K] float32. scale: broadcastable to codes; None: not recorded."""

    codes: Tensor
    scale: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Describe what this rank should receive of the group's S tokens, in rank order.

    ids: [S, k] int64 local expert ids, -1 for experts of other ranks. weights: [S, k] float32,
    0 where the id is -1.
    """

    rows: Rows
    ids: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """Hold which r gathered rows hold tokens, and what each should hold.

    rows: [r] int64 gathered rows. tokens: [r] int64 token of each, numbered in rank order. slots:
    [r] int64 its slot, if each row has one slot only, else None. expected: of these rows. factors:
    [r] float32, by which a row's output enters the sum of its token.
    """

    rows: Tensor
    tokens: Tensor
    slots: Tensor | None
    expected: Sent
    factors: Tensor


def arrived(handed: Handed, expected: Sent) -> Arrival | None:
    """Return which rows hold tokens, or None if it is unknown. expected: of all S tokens."""
    if handed.has("tokens"):
        return _as_recorded(handed, expected)
    at = order(handed, expected)
    if at is None:
        return None
    tokens = torch.arange(len(at), device=at.device)
    factors = torch.ones(len(at), device=at.device)
    return Arrival(rows=at, tokens=tokens, slots=None, expected=expected, factors=factors)


def _as_recorded(handed: Handed, expected: Sent) -> Arrival:
    """Return the rows that the member says to hold tokens; numbers of no token are left out."""
    numbers = handed.stages["tokens"].value.long()
    is_token = (numbers >= 0) & (numbers < len(expected.ids))
    slots = handed.stages["slots"].value.long() if handed.has("slots") else None
    if slots is not None:
        is_token = is_token & (slots >= 0) & (slots < expected.ids.shape[1])
    rows = is_token.nonzero().flatten()
    tokens = numbers[rows]
    ids, weights, scale = expected.ids[tokens], expected.weights[tokens], expected.rows.scale
    factors = torch.ones(len(rows), device=rows.device)
    if slots is not None:  # the member weighs what comes back
        slots = slots[rows]
        ids, factors = ids.gather(1, slots[:, None]), weights.gather(1, slots[:, None])[:, 0]
        weights = (ids >= 0).float()
    if scale is not None and scale.ndim == 2 and len(scale) == len(expected.ids):
        scale = scale[tokens]
    content = Rows(codes=expected.rows.codes[tokens], scale=scale)
    return Arrival(
        rows=rows,
        tokens=tokens,
        slots=slots,
        expected=Sent(rows=content, ids=ids, weights=weights),
        factors=factors,
    )


def deliveries(arrival: Arrival, expected: Sent) -> tuple[Tensor, Tensor]:
    """Return the tokens [n] that have an expert here, and how often each arrived, [n] int64.

    Of rows with one slot, the (token, slot) pairs, numbered token * k + slot. expected: of all
    tokens.
    """
    if arrival.slots is None:
        needed, number = (expected.ids >= 0).any(dim=1), arrival.tokens
    else:
        needed = (expected.ids >= 0).flatten()
        number = arrival.tokens * expected.ids.shape[1] + arrival.slots
    times = torch.bincount(number, minlength=len(needed))
    return needed.nonzero().flatten(), times[needed]


def sent(handed: Handed, ids: Tensor, weights: Tensor, projected: Tensor | None = None) -> Sent:
    """Return what this rank should receive, given the choice of each token's rank.

    ids: [S, k] ids as they are sent, see `Handed.sent_ids`. weights: [S, k] float32. projected:
    [S, L] tokens as each rank recorded them in the stage `latent`, of a latent layer; None: they
    are made from the seed.
    """
    case, local = handed.subject.case, handed.local_ids(ids)
    x = handed.sent if projected is None else projected
    rows = _expected_rows(handed, x, weights if case.weights_input else None)
    if case.weights_input:  # the experts get weights of 1
        weights = torch.ones_like(weights)
    weights = torch.where(local >= 0, weights, 0.0)
    return Sent(rows=rows, ids=local, weights=weights)


def received_rows(handed: Handed, at: Tensor) -> Rows:
    """Return what this rank received in the gathered rows `at`."""
    codes = handed.rows("input", at)
    return Rows(codes=codes, scale=handed.scales("input", at, codes.shape[1]))


def mismatched_rows(handed: Handed, expected: Rows, at: Tensor) -> Tensor:
    """Return [r] bool: rows whose codes or recorded scales differ from the expected ones."""
    received = received_rows(handed, at)
    mismatched = ~(received.codes == expected.codes)
    if received.scale is not None:
        mismatched = mismatched | ~(received.scale == expected.scale)
    return mismatched.any(dim=1)


def order(handed: Handed, expected: Sent) -> Tensor | None:
    """Return [S], the gathered row of each token, or None if it is unknown.

    Accept an order other than rank order only if activations and routing both match it. Fall back
    to activations alone only if neither matches rank order, and last to rank order if all tokens
    with an expert here have theirs: other rows, such as padding, have one too many then.
    """
    rank_order = _rank_order(handed)
    rows_fit = rank_order is not None and not bool(
        mismatched_rows(handed, expected.rows, rank_order).any()
    )
    fits = rank_order is not None and _is_routed_as_expected(handed, expected, rank_order)
    if rows_fit and fits:
        return rank_order
    ids, weights = handed.ids, handed.stages["weights"].value.float()
    received_routing = ids, torch.where(ids >= 0, weights, 0.0)
    matched = _matched(handed, expected.rows, (expected.ids, expected.weights), received_routing)
    if matched is None and (rows_fit or fits):
        return rank_order
    matched = _matched(handed, expected.rows) if matched is None else matched
    if matched is None and rank_order is not None and _have_experts(handed, expected, rank_order):
        return rank_order
    return matched


def by_rows(handed: Handed) -> Tensor | None:
    """Return the rows of tokens: those that the member says, or in the order of the activations.

    None if it is unknown. Not collective.
    """
    if handed.has("tokens"):
        return (handed.stages["tokens"].value >= 0).nonzero().flatten()
    if handed.subject.case.weights_input or handed.subject.case.latent:
        return None  # rows hold weights or projections of other ranks
    rank_order, expected = _rank_order(handed), _expected_rows(handed, handed.sent)
    if rank_order is not None and not bool(mismatched_rows(handed, expected, rank_order).any()):
        return rank_order
    return _matched(handed, expected)


def _expected_rows(handed: Handed, sent_rows: Tensor, weights: Tensor | None = None) -> Rows:
    """Return the input rows of all tokens of the group [S, K], quantized as the layer does.

    weights: [S, 1] router weights that multiply them, or None.
    """
    x, fmt = sent_rows.float(), handed.subject.reference.act_format
    if weights is not None:
        x = formats.on_grid(x * weights, handed.subject.case.dtype)
    if fmt.grid == "model":
        return Rows(codes=x, scale=x.new_ones(()))
    scale = formats.activation_scale(x, fmt, handed.subject.scales["a1_scale"])
    return Rows(codes=formats.on_grid((x / scale).clamp(-fmt.top, fmt.top), fmt), scale=scale)


def _rank_order(handed: Handed) -> Tensor | None:
    """Return [S], the gathered rows in rank order, with or without padding to the longest rank.

    None if the number of rows fits neither, or if a row has only some slots of its token.
    """
    rows, sizes, device = len(handed.ids), handed.sizes, handed.ids.device
    if not handed.by_token:
        return None
    if rows == sum(sizes):
        return torch.arange(rows, device=device)
    longest = max(sizes)
    if rows != longest * len(sizes):
        return None
    return torch.cat([longest * i + torch.arange(n, device=device) for i, n in enumerate(sizes)])


def _is_routed_as_expected(handed: Handed, expected: Sent, at: Tensor) -> bool:
    weights = torch.where(expected.ids >= 0, handed.stages["weights"].value[at].float(), 0.0)
    return torch.equal(handed.ids[at], expected.ids) and torch.equal(weights, expected.weights)


def _have_experts(handed: Handed, expected: Sent, at: Tensor) -> bool:
    """Tell whether the tokens with an expert here, at least two, are routed as expected."""
    has_expert = (expected.ids >= 0).any(dim=1)
    ids, weights = expected.ids[has_expert], expected.weights[has_expert]
    its = dataclasses.replace(expected, ids=ids, weights=weights)
    return len(ids) > 1 and _is_routed_as_expected(handed, its, at[has_expert])


def _matched(
    handed: Handed,
    expected: Rows,
    routing: tuple[Tensor, ...] = (),
    received_routing: tuple[Tensor, ...] = (),
) -> Tensor | None:
    """Return [S], for each token a distinct row with the same content (and routing, if passed).

    None unless every token has such a row and no other row is routed to an expert.
    """
    if not handed.by_token:
        return None
    received = received_rows(handed, torch.arange(len(handed.ids), device=handed.ids.device))
    if received.scale is None:
        expected = dataclasses.replace(expected, scale=None)
    expected_content = _content(expected, routing)
    content = _content(received, received_routing)
    at = _places(row_sums(expected_content), row_sums(content))
    if at is None or not torch.equal(content[at], expected_content):
        return None
    unmatched = torch.ones(len(content), dtype=torch.bool, device=at.device)
    unmatched[at] = False
    return None if bool((handed.ids[unmatched] >= 0).any()) else at


def _content(rows: Rows, routing: tuple[Tensor, ...]) -> Tensor:
    """Return [r, C] float32, the content of each row, with -0.0 as 0.0 so that bits compare."""
    codes, scale = rows.codes, rows.scale
    scales = () if scale is None else (scale.broadcast_to(codes.shape),)
    return torch.cat([codes, *scales, *(t.float() for t in routing)], dim=1) + 0.0


def _places(expected: Tensor, received: Tensor) -> Tensor | None:
    """Return [S], for each expected number a distinct index into `received`; None if one lacks it.

    expected: [S] int64. received: [G] int64. Equal numbers get the matching indices in order.
    """
    numbers, expected_order = expected.sort(stable=True)
    sorted_received, received_order = received.sort(stable=True)
    rank_among_equals = torch.arange(len(numbers), device=expected.device)
    rank_among_equals = rank_among_equals - torch.searchsorted(numbers, numbers)
    at = torch.searchsorted(sorted_received, numbers) + rank_among_equals
    if int(at.max()) >= len(sorted_received) or not torch.equal(sorted_received[at], numbers):
        return None
    return torch.empty_like(at).scatter_(0, expected_order, received_order[at])
