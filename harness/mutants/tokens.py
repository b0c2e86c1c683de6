"""Compute outputs with the rows, inputs or router weights of other tokens."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from harness.fixtures import fused_slots, tensors
from harness.matrix.call_modes import CALL_MODES
from harness.mutants import NotApplicable
from harness.mutants.recompute import (
    elsewhere,
    redo_parts,
    shared_mlp,
)

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene


def neighbour_tokens(scene: Scene) -> Tensor:
    """Return the rows of the next rank that holds other tokens, in the same places."""
    layout = scene.case.layout
    step = len(layout.same_tokens(scene.rank))
    group = layout.group("experts", scene.rank)
    other = group[(group.index(scene.rank) + step) % len(group)]
    if other == scene.rank:
        raise NotApplicable("no other rank holds other tokens")
    return _output_of(scene, other, scene.counts, scene.start)


def stale_output(scene: Scene) -> Tensor:
    """Return the first call's output, left over in the output's memory."""
    if scene.start == 0:
        raise NotApplicable("this is the first call")
    return _output_of(scene, scene.rank, scene.case.counts, 0)


def stale_sum(scene: Scene) -> Tensor:
    """Add the experts' output to what the first call left, instead of to zeros."""
    if scene.start == 0:
        raise NotApplicable("this is the first call")
    stale = _routed(_same_places(scene, scene.rank, scene.case.counts, 0))
    return scene.answer.out[: len(stale)] + stale


def tp_tokens_summed(scene: Scene) -> Tensor:
    """Sum the rows of all TP ranks in the same places, although their tokens differ."""
    layout = scene.case.layout
    if not layout.sequence_parallel or layout.tp_size == 1:
        raise NotApplicable("TP ranks hold the same tokens")
    other_ranks = [r for r in layout.group("tp", scene.rank) if r != scene.rank]
    routed = [_routed(_same_places(scene, rank, scene.counts, scene.start)) for rank in other_ranks]
    rows = min(len(part) for part in routed)
    return torch.stack([scene.answer.out[:rows], *(part[:rows] for part in routed)]).sum(dim=0)


def first_rank_inputs(scene: Scene) -> Tensor:
    """Give every rank's experts the first rank's tokens; ids and weights are correct."""
    if scene.rank in _sharing(scene, _first(scene)):
        raise NotApplicable("these are the first rank's tokens")
    return _with_inputs(scene, _first(scene))


def reversed_rank_inputs(scene: Scene) -> Tensor:
    """Gather the ranks' tokens in reverse order, ids and weights in the correct one."""
    layout = scene.case.layout
    group = layout.group("experts", scene.rank)
    senders = sorted({layout.same_tokens(rank)[0] for rank in group})
    other = senders[-1 - senders.index(layout.same_tokens(scene.rank)[0])]
    if scene.rank in _sharing(scene, other):
        raise NotApplicable("in reverse order this rank has its own place")
    return _with_inputs(scene, other)


def other_half_inputs(scene: Scene) -> Tensor:
    """Give the experts of a call's first half the tokens of its second; the routing is correct."""
    case, layout = scene.case, scene.case.layout
    middle = (scene.tokens + 1) // 2
    if not CALL_MODES[case.call].splits_tokens:
        raise NotApplicable("the tokens go through the layer at once")
    sample = scene.few_rows()
    is_first = (sample.rows < middle) & (sample.rows + middle < scene.tokens)
    if not bool(is_first.any()):
        raise NotApplicable("none of these rows is in the first half")
    rows = torch.where(is_first, sample.rows + middle, sample.rows)
    place, d = layout.tokens_of(scene.rank, scene.counts), layout.dp_rank(scene.rank)
    tokens = tensors.tokens(case, d, scene.counts[d], sample.x.device, scene.start)
    other = elsewhere(sample, x=tokens.x[rows + place.start])
    return sample.total(parts=redo_parts(other))


def _with_inputs(scene: Scene, rank: int) -> Tensor:
    """Compute the output with this rank's ids and weights and another rank's x."""
    other = _same_places(scene, rank, scene.counts, scene.start)
    sample = scene.first(len(other.x))
    return sample.total(parts=redo_parts(elsewhere(sample, x=other.x)))


def first_rank_weights(scene: Scene) -> Tensor:
    """Weight this rank's experts with the router weights of the first rank's tokens."""
    first = _first(scene)
    if scene.rank in _sharing(scene, first):
        raise NotApplicable("these are the first rank's tokens")
    weights = _same_places(
        scene, first, scene.counts, scene.start, count=len(scene.rows)
    ).topk_weights
    return scene.first(len(weights)).total(weights=weights)


def _first(scene: Scene) -> int:
    """Return the first of the ranks that exchange tokens with this one."""
    return scene.case.layout.group("experts", scene.rank)[0]


def _sharing(scene: Scene, rank: int) -> tuple[int, ...]:
    """Return the ranks that hold the same tokens as a rank."""
    return scene.case.layout.same_tokens(rank)


def unpadded_offsets(scene: Scene) -> Tensor:
    """Read rows at offsets that ignore the padding of the ranks before."""
    layout, counts = scene.case.layout, scene.counts
    group = layout.group("experts", scene.rank)
    ranks = [r for r in group if layout.same_tokens(r)[0] == r]
    sizes = [len(layout.tokens_of(r, counts)) for r in ranks]
    place = next(i for i, r in enumerate(ranks) if scene.rank in _sharing(scene, r))
    if sum(sizes[:place]) == place * max(sizes):
        raise NotApplicable("no rank before this one sends padding")
    sample, row_sample = scene.few_rows(), scene.first(1)
    out = sample.total(weights=torch.zeros_like(sample.topk_weights))
    for i, row in enumerate((sample.rows + sum(sizes[:place])).tolist()):
        sender, sender_row = divmod(row, max(sizes))
        if sender_row < sizes[sender]:  # else it is a row of padding: zeros
            other = dataclasses.replace(row_sample, rows=sample.rows.new_tensor([sender_row]))
            out[i] += _routed(_same_places(other, ranks[sender], counts, scene.start))[0]
    return out


def _output_of(scene: Scene, rank: int, counts: tuple[int, ...], start: int) -> Tensor:
    """Return the correct output of a rank's tokens in the same places, as far as it has them."""
    other = _same_places(scene, rank, counts, start)
    shared = None if scene.answer.shared is None else shared_mlp(other)
    other = dataclasses.replace(other, answer=dataclasses.replace(other.answer, shared=shared))
    return other.total(parts=redo_parts(other))


def _routed(other: Scene) -> Tensor:
    """Return [r, K], the output of a scene without shared experts."""
    return other.total(parts=redo_parts(other), shared=torch.zeros_like(other.answer.out))


def _same_places(
    scene: Scene, rank: int, counts: tuple[int, ...], start: int, count: int | None = None
) -> Scene:
    """Return a scene of a rank's tokens in the same places, as far as these exist.

    count: at most so many; None: as many as a mistake inside the experts is computed for.
    """
    case, layout = scene.case, scene.case.layout
    place, d = layout.tokens_of(rank, counts), layout.dp_rank(rank)
    sample = scene.few_rows() if count is None else scene.first(count)
    available = int(
        (sample.rows < len(place)).long().cumprod(dim=0).sum()
    )  # up to the first it lacks
    rows = sample.rows[:available] + place.start
    if available == 0:
        raise NotApplicable("there are no other tokens in these places")
    tokens = tensors.tokens(case, d, counts[d], sample.x.device, start)
    x, adapters = tokens.x[rows], tokens.adapters_of(rows)
    ids, weights = fused_slots.chosen(case, x, tokens.logits[rows], scene.reference)
    return elsewhere(
        sample.first(available), x=x, topk_ids=ids, topk_weights=weights, adapters=adapters
    )
