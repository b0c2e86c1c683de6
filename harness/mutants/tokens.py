"""Rows, inputs or router weights of other tokens than those that were asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from harness.fixtures import tensors
from harness.mutants import FEW, NotApplicable
from harness.mutants.recompute import elsewhere, redo_parts, shared_mlp
from moe.reference import routing

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene


def neighbour_tokens(scene: Scene) -> Tensor:
    """The rows that the next rank, among those that hold other tokens, has in these places."""
    layout = scene.case.layout
    step = len(layout.same_tokens(scene.rank))
    other = (scene.rank + step) % layout.world_size
    if other == scene.rank:
        raise NotApplicable("no other rank holds other tokens")
    return _of(scene, other, scene.counts, scene.start)


def stale_output(scene: Scene) -> Tensor:
    """What the first call has left in the output's memory."""
    if scene.start == 0:
        raise NotApplicable("this is the first call")
    return _of(scene, scene.rank, scene.case.counts, 0)


def stale_sum(scene: Scene) -> Tensor:
    """The experts add to what the first call has left, instead of to zeros."""
    if scene.start == 0:
        raise NotApplicable("this is the first call")
    left = _routed(_there(scene, scene.rank, scene.case.counts, 0))
    return scene.answer.out[: len(left)] + left


def tp_tokens_summed(scene: Scene) -> Tensor:
    """TP ranks that hold other tokens each add up what they have in the same places."""
    layout = scene.case.layout
    if not layout.sequence_parallel or layout.tp_size == 1:
        raise NotApplicable("TP ranks hold the same tokens")
    others = [r for r in layout.group("tp", scene.rank) if r != scene.rank]
    routed = [_routed(_there(scene, rank, scene.counts, scene.start)) for rank in others]
    held = min(len(part) for part in routed)
    return torch.stack([scene.answer.out[:held], *(part[:held] for part in routed)]).sum(dim=0)


def first_rank_inputs(scene: Scene) -> Tensor:
    """Experts get the first rank's tokens for everybody's; ids and weights are right."""
    if scene.rank in _sharing(scene, 0):
        raise NotApplicable("these are the first rank's tokens")
    return _with_inputs(scene, 0)


def reversed_rank_inputs(scene: Scene) -> Tensor:
    """Ranks' tokens are gathered in reverse order, ids and weights in the right one."""
    layout = scene.case.layout
    holders = [layout.same_tokens(rank)[0] for rank in range(layout.world_size)]
    senders = sorted(set(holders))
    other = senders[-1 - senders.index(holders[scene.rank])]
    if scene.rank in _sharing(scene, other):
        raise NotApplicable("in reverse order this rank has its own place")
    return _with_inputs(scene, other)


def _with_inputs(scene: Scene, rank: int) -> Tensor:
    """This rank's ids and weights, the other rank's x."""
    theirs = _there(scene, rank, scene.counts, scene.start)
    few = scene.first(len(theirs.x))
    return few.total(parts=redo_parts(elsewhere(few, x=theirs.x)))


def first_rank_weights(scene: Scene) -> Tensor:
    """This rank's experts, weighted as those of the first rank's tokens in the same places."""
    if scene.rank in _sharing(scene, 0):
        raise NotApplicable("these are the first rank's tokens")
    weights = _there(scene, 0, scene.counts, scene.start, most=len(scene.rows)).topk_weights
    return scene.first(len(weights)).total(weights=weights)


def _sharing(scene: Scene, rank: int) -> tuple[int, ...]:
    """The ranks that hold the same tokens as a rank."""
    return scene.case.layout.same_tokens(rank)


def unpadded_offsets(scene: Scene) -> Tensor:
    """Rows are looked for as if the ranks before had sent no padding with theirs."""
    layout, counts = scene.case.layout, scene.counts
    ranks = [r for r in range(layout.world_size) if layout.same_tokens(r)[0] == r]
    held = [len(layout.tokens_of(r, counts)) for r in ranks]
    place = next(i for i, r in enumerate(ranks) if scene.rank in _sharing(scene, r))
    if sum(held[:place]) == place * max(held):
        raise NotApplicable("no rank before this one sends padding")
    few, one = scene.first(FEW), scene.first(1)
    out = few.total(weights=torch.zeros_like(few.topk_weights))
    for i, row in enumerate((few.rows + sum(held[:place])).tolist()):
        which, there = divmod(row, max(held))
        if there < held[which]:  # else it is a row of padding: zeros
            other = dataclasses.replace(one, rows=few.rows.new_tensor([there]))
            out[i] += _routed(_there(other, ranks[which], counts, scene.start))[0]
    return out


def _of(scene: Scene, rank: int, counts: tuple[int, ...], start: int) -> Tensor:
    """The right rows of a rank's tokens in the same places, as far as it has so many."""
    there = _there(scene, rank, counts, start)
    shared = None if scene.answer.shared is None else shared_mlp(there)
    there = dataclasses.replace(there, answer=dataclasses.replace(there.answer, shared=shared))
    return there.total(parts=redo_parts(there))


def _routed(there: Scene) -> Tensor:
    """[r, K] without shared experts."""
    return there.total(parts=redo_parts(there), shared=torch.zeros_like(there.answer.out))


def _there(scene: Scene, rank: int, counts: tuple[int, ...], start: int, most: int = FEW) -> Scene:
    """A rank's tokens in the same places, at most so many and as far as it has them."""
    case, layout = scene.case, scene.case.layout
    place, d = layout.tokens_of(rank, counts), layout.dp_rank(rank)
    few = scene.first(most)
    held = int((few.rows < len(place)).long().cumprod(dim=0).sum())  # up to the first it lacks
    rows = few.rows[:held] + place.start
    if held == 0:
        raise NotApplicable("there are no other tokens in these places")
    tokens = tensors.tokens(case, d, counts[d], few.x.device, start)
    logits, router = tokens.logits[rows], case.router
    ids = routing.choose(logits, case.top_k, router)
    weights = routing.weights(logits, ids, renormalize=case.renormalize, router=router)
    return elsewhere(few.first(held), x=tokens.x[rows], topk_ids=ids, topk_weights=weights)
