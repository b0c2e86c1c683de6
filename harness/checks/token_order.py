"""Which gathered row holds which token: an all2all may gather in any order.

Most gather in rank order, so that is looked at first. Where it does not explain what is there,
rows are known by what is in them. Where that does not tell either, nobody knows what should be
where, and what arrived is left to the comparison of the output.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.bits import row_sums
from harness.fixtures.expert_ids import local_ids
from moe.reference import formats

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed


@dataclass(frozen=True, kw_only=True)
class Rows:
    """codes: [r, K] float32. scale: broadcastable to them; None: not handed out."""

    codes: Tensor
    scale: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Of the S tokens of the group, in rank order: what this rank should have of them.

    ids: [S, k] int64 local, -1 = none here. weights: [S, k] float32, 0 where no expert is here.
    """

    rows: Rows
    ids: Tensor
    weights: Tensor


def sent(handed: Handed, ids: Tensor, weights: Tensor) -> Sent:
    """ids: [S, k] global, weights: [S, k] float32, as the tokens' own ranks chose them."""
    case = handed.subject.case
    local = local_ids(ids.long(), case.problem.experts_of(handed.rank), case.num_experts)
    weights = torch.where(local >= 0, weights, 0.0)
    return Sent(rows=_right_rows(handed), ids=local, weights=weights)


def held_rows(handed: Handed, at: Tensor) -> Rows:
    """What this rank had in these gathered rows."""
    codes = handed.rows("input", at)
    return Rows(codes=codes, scale=handed.scales("input", at, codes.shape[1]))


def wrong_rows(handed: Handed, right: Rows, at: Tensor) -> Tensor:
    """[r] bool where codes, or scales if they are known, are not the right ones, bit for bit."""
    held = held_rows(handed, at)
    bad = ~(held.codes == right.codes)
    return (bad if held.scale is None else bad | ~(held.scale == right.scale)).any(dim=1)


def order(handed: Handed, right: Sent) -> Tensor | None:
    """[S] the gathered row of each token, or None.

    Another order than the ranks' must explain rows and routing, or one of them would excuse the
    other. Only where neither fits the ranks' order do rows alone say where they are.
    """
    line = _rank_order(handed)
    rows_fit = line is not None and not bool(wrong_rows(handed, right.rows, line).any())
    fits = line is not None and _routed_right(handed, right, line)
    if rows_fit and fits:
        return line
    ids, weights = handed.ids, handed.stages["weights"].value.float()
    held = ids, torch.where(ids >= 0, weights, 0.0)
    found = _matched(handed, right.rows, (right.ids, right.weights), held)
    if found is None and (rows_fit or fits):
        return line
    return _matched(handed, right.rows) if found is None else found


def by_rows(handed: Handed) -> Tensor | None:
    """As `order`, from the rows alone; not collective."""
    line, right = _rank_order(handed), _right_rows(handed)
    if line is not None and not bool(wrong_rows(handed, right, line).any()):
        return line
    return _matched(handed, right)


def _right_rows(handed: Handed) -> Rows:
    """Of all tokens of the group; made anew from the seed, so no rank's word is taken."""
    x, fmt = handed.sent.float(), handed.subject.reference.act_format
    if fmt.grid == "model":
        return Rows(codes=x, scale=x.new_ones(()))
    scale = formats.activation_scale(x, fmt, handed.subject.scales["a1_scale"])
    return Rows(codes=formats.on_grid((x / scale).clamp(-fmt.top, fmt.top), fmt), scale=scale)


def _rank_order(handed: Handed) -> Tensor | None:
    """[S] one rank's tokens after another's, as they are or padded to the longest's.

    None where there are not so many rows, or where a row has not all slots of its token.
    """
    rows, sizes, device = len(handed.ids), handed.sizes, handed.ids.device
    if not handed.by_token:
        return None
    if rows == sum(sizes):
        return torch.arange(rows, device=device)
    most = max(sizes)
    if rows != most * len(sizes):
        return None
    return torch.cat([most * i + torch.arange(n, device=device) for i, n in enumerate(sizes)])


def _routed_right(handed: Handed, right: Sent, at: Tensor) -> bool:
    weights = torch.where(right.ids >= 0, handed.stages["weights"].value[at].float(), 0.0)
    return torch.equal(handed.ids[at], right.ids) and torch.equal(weights, right.weights)


def _matched(
    handed: Handed,
    right: Rows,
    routing: tuple[Tensor, ...] = (),
    held_routing: tuple[Tensor, ...] = (),
) -> Tensor | None:
    """[S] for each token a row of its own that holds it, and its routing where that is given.

    None unless all are found, once each, and no other row takes part in anything.
    """
    if not handed.by_token:
        return None
    held = held_rows(handed, torch.arange(len(handed.ids), device=handed.ids.device))
    if held.scale is None:
        right = dataclasses.replace(right, scale=None)
    wanted, there = _content(right, routing), _content(held, held_routing)
    at = _places(row_sums(wanted), row_sums(there))
    if at is None or not torch.equal(there[at], wanted):
        return None
    rest = torch.ones(len(there), dtype=torch.bool, device=at.device)
    rest[at] = False
    return None if bool((handed.ids[rest] >= 0).any()) else at


def _content(rows: Rows, routing: tuple[Tensor, ...]) -> Tensor:
    """[r, C] float32 all that is in a row; no negative zeros, which would have other bits."""
    codes, scale = rows.codes, rows.scale
    wide = () if scale is None else (scale.broadcast_to(codes.shape),)
    return torch.cat([codes, *wide, *(t.float() for t in routing)], dim=1) + 0.0


def _places(wanted: Tensor, there: Tensor) -> Tensor | None:
    """[S], [G] int64 -> [S] for each number a place of its own where it is; None: one has none.

    Equal numbers take the places of their equals one after another.
    """
    numbers, which = wanted.sort(stable=True)
    found, places = there.sort(stable=True)
    before = torch.arange(len(numbers), device=wanted.device)
    before = before - torch.searchsorted(numbers, numbers)
    at = torch.searchsorted(found, numbers) + before
    if int(at.max()) >= len(found) or not torch.equal(found[at], numbers):
        return None
    return torch.empty_like(at).scatter_(0, which, places[at])
