"""Sums over ranks that miss a rank, count one twice, or are not done at all."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from harness import inputs
from harness.hypotheses import FEW, NotApplicable
from harness.hypotheses.redo import elsewhere, redo_parts, shared_mlp
from harness.hypotheses.share import by_rank, farther, residual
from moe.reference import routing
from moe.spec import chunk

if TYPE_CHECKING:
    from torch import Tensor

    from harness.scene import Scene


def rank_missing(scene: Scene) -> Tensor:
    return scene.answer.out - _one_rank(scene, -1.0)


def rank_twice(scene: Scene) -> Tensor:
    return scene.answer.out + _one_rank(scene, 1.0)


def _one_rank(scene: Scene, sign: float) -> Tensor:
    """[r, K] the share of the rank whose `sign` times share is nearest to the residual."""
    if scene.case.world_size == 1:
        raise NotApplicable("there is one rank only")
    shares = by_rank(scene)
    cost = farther(residual(scene), sign * shares).sum(dim=1)
    idle = (shares == 0).flatten(1).all(dim=1)
    if idle.all():
        raise NotApplicable("no rank adds anything to these rows")
    return shares[cost.masked_fill(idle, torch.inf).argmin()]


def all_reduce_missing(scene: Scene) -> Tensor:
    _needs_all_reduce(scene)
    layout = scene.case.layout
    column = range(layout.tp_rank(scene.rank), layout.world_size, layout.tp_size)
    routed = by_rank(scene)[list(column)].sum(dim=0)
    return routed if scene.answer.shared is None else routed + _own_shared(scene)


def all_reduce_twice(scene: Scene) -> Tensor:
    _needs_all_reduce(scene)
    return scene.answer.out * scene.case.tp_size


def all_reduce_averaged(scene: Scene) -> Tensor:
    _needs_all_reduce(scene)
    return scene.answer.out / scene.case.tp_size


def _needs_all_reduce(scene: Scene) -> None:
    if scene.case.tp_size == 1:
        raise NotApplicable("there is one TP rank only")
    if scene.case.sequence_parallel:
        raise NotApplicable("under sequence parallelism no output is all-reduced")


def reduce_scatter_missing(scene: Scene) -> Tensor:
    """Each rank keeps its own partial sums of its tokens; the TP ranks are still summed."""
    layout, shares = scene.case.layout, by_rank(scene)
    if layout.sequence_parallel:
        routed = shares[scene.rank]
    elif layout.dp_size == 1:
        raise NotApplicable("ranks that share their tokens have no others' to gather")
    else:
        first = layout.dp_rank(scene.rank) * layout.tp_size
        routed = shares[first : first + layout.tp_size].sum(dim=0)
    return routed if scene.answer.shared is None else routed + scene.answer.shared


def shared_once_per_rank(scene: Scene) -> Tensor:
    shared = _needs_shared_sum(scene)
    return scene.answer.out + (scene.case.tp_size - 1) * shared


def shared_unreduced(scene: Scene) -> Tensor:
    return scene.answer.out - _needs_shared_sum(scene) + _own_shared(scene)


def _needs_shared_sum(scene: Scene) -> Tensor:
    if scene.answer.shared is None:
        raise NotApplicable("the layer has no shared experts")
    _needs_all_reduce(scene)
    return scene.answer.shared


def _own_shared(scene: Scene) -> Tensor:
    """[r, K] this TP rank's part of the shared experts' output."""
    width = scene.case.shared_experts * scene.case.n
    own = chunk(width, scene.case.tp_size, scene.case.layout.tp_rank(scene.rank))
    return shared_mlp(scene, slice(own.start, own.stop))


def neighbour_tokens(scene: Scene) -> Tensor:
    """The rows that the next rank, among those that hold other tokens, has in these places."""
    case, layout = scene.case, scene.case.layout
    step = 1 if layout.sequence_parallel else layout.tp_size
    other = (scene.rank + step) % layout.world_size
    if other == scene.rank:
        raise NotApplicable("no other rank holds other tokens")
    place = layout.tokens_of(other, scene.counts)
    few = scene.first(FEW)
    keep = int((few.rows < len(place)).sum())
    if keep == 0:
        raise NotApplicable("the next rank has no tokens in these places")
    few = few.first(keep)
    d = layout.dp_rank(other)
    tokens = inputs.tokens(case, d, scene.counts[d], few.x.device)
    rows = few.rows + place.start
    ids = routing.choose(tokens.logits[rows], case.top_k)
    weights = routing.softmax_weights(tokens.logits[rows], ids, renormalize=case.renormalize)
    there = elsewhere(few, x=tokens.x[rows], topk_ids=ids, topk_weights=weights)
    shared = None if scene.answer.shared is None else shared_mlp(there)
    there = dataclasses.replace(there, answer=dataclasses.replace(there.answer, shared=shared))
    return there.total(parts=redo_parts(there))
