"""Find what can be computed together: rows and slots sorted by expert, ranks of equal shards."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Hold P rows and slots to compute, as they lie in a tensor: sorted by expert."""

    experts: tuple[int, ...]  # each once
    places: tuple[tuple[tuple[int, int], ...], ...]  # (row, slot) of each expert's pairs
    device: torch.device

    @property
    def counts(self) -> list[int]:
        """Return the number of each expert's pairs."""
        return [len(places) for places in self.places]

    @cached_property
    def rows_and_slots(self) -> Tensor:
        """Return [2, P] int64."""
        joined = [pair for places in self.places for pair in places]
        return torch.tensor(joined, device=self.device).T

    def among(self, experts: tuple[int, ...]) -> tuple[Pairs, list[int]]:
        """Return the pairs of some experts, and where they lie among all."""
        known = [i for i, e in enumerate(self.experts) if e in experts]
        ends = list(itertools.accumulate(self.counts))
        at = [n for i in known for n in range(ends[i] - len(self.places[i]), ends[i])]
        pair = tuple(self.experts[i] for i in known), tuple(self.places[i] for i in known)
        return Pairs(experts=pair[0], places=pair[1], device=self.device), at


def pairs_of(ids: Tensor) -> Pairs:
    """Return the pairs of ids [r, k]; -1 = none. Waits for the device once."""
    places: dict[int, list[tuple[int, int]]] = {}
    for row, experts in enumerate(ids.tolist()):
        for slot, e in enumerate(experts):
            if e >= 0:
                places.setdefault(e, []).append((row, slot))
    experts = tuple(sorted(places))
    return Pairs(
        experts=experts, places=tuple(tuple(places[e]) for e in experts), device=ids.device
    )


def ranks_together(scene: Scene) -> list[tuple[int, ...]]:
    """Return the ranks in groups: together if they have equal shards of the same experts.

    Ranks with scales of their own are not computed together.
    """
    layout = scene.case.layout
    among = layout.group("experts", scene.rank)  # other ranks do not compute these tokens
    have_one_scale = scene.answer.tensor_scales[1] is None or scene.reference.act_format.static
    has_equal_shards = len(set(scene.case.layer_spec.shard_sizes)) == 1
    if has_equal_shards and have_one_scale:
        return [g for g in layout.partition("moe_tp") if g[0] in among]
    return [(rank,) for rank in among]
