"""Right outputs of other tokens than those that were asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from harness import inputs
from harness.hypotheses import FEW, NotApplicable
from harness.hypotheses.redo import elsewhere, redo_parts, shared_mlp
from moe.reference import routing

if TYPE_CHECKING:
    from torch import Tensor

    from harness.scene import Scene


def neighbour_tokens(scene: Scene) -> Tensor:
    """The rows that the next rank, among those that hold other tokens, has in these places."""
    layout = scene.case.layout
    step = 1 if layout.sequence_parallel else layout.tp_size
    other = (scene.rank + step) % layout.world_size
    if other == scene.rank:
        raise NotApplicable("no other rank holds other tokens")
    return _of(scene, other, scene.counts, scene.start)


def stale_output(scene: Scene) -> Tensor:
    """What the first call has left in the output's memory."""
    if scene.start == 0:
        raise NotApplicable("this is the first call")
    return _of(scene, scene.rank, scene.case.counts, 0)


def _of(scene: Scene, rank: int, counts: tuple[int, ...], start: int) -> Tensor:
    """The right rows of a rank's tokens in the same places, as far as it has so many."""
    case, layout = scene.case, scene.case.layout
    place, d = layout.tokens_of(rank, counts), layout.dp_rank(rank)
    few = scene.first(FEW)
    held = int((few.rows < len(place)).long().cumprod(dim=0).sum())  # up to the first it lacks
    rows = few.rows[:held] + place.start
    if held == 0:
        raise NotApplicable("there are no other tokens in these places")
    tokens = inputs.tokens(case, d, counts[d], few.x.device, start)
    ids = routing.choose(tokens.logits[rows], case.top_k)
    weights = routing.softmax_weights(tokens.logits[rows], ids, renormalize=case.renormalize)
    there = elsewhere(few.first(held), x=tokens.x[rows], topk_ids=ids, topk_weights=weights)
    shared = None if scene.answer.shared is None else shared_mlp(there)
    there = dataclasses.replace(there, answer=dataclasses.replace(there.answer, shared=shared))
    return there.total(parts=redo_parts(there))
