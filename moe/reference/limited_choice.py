"""Choose by score + bias within the best groups of experts, and check such a choice: float64.

A group is as good as its two best experts together. Any choice among ties is valid, of groups as
of experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Hold the keys by which experts are chosen, [T, E] float64, higher is better.

    noise: [T, 1] or [T, E], width of the interval around a key in which it may be. groups,
    chosen_groups: as in `moe.routing_method.RoutingMethod`. group_dtype: of a group's sum.
    """

    values: Tensor
    noise: Tensor
    groups: int
    chosen_groups: int
    group_dtype: str = "f32"

    @property
    def of_groups(self) -> Tensor:
        """Return [T, groups], the sum of each group's two highest keys."""
        return self._sums(self.values)

    def _sums(self, keys: Tensor) -> Tensor:
        best = self._by_group(keys).sort(dim=2, descending=True).values[:, :, :2]
        return on_grid(best.sum(dim=2), self.group_dtype)

    def _by_group(self, of_experts: Tensor) -> Tensor:
        """Return values [T, E] as [T, groups, experts of a group]."""
        return of_experts.view(len(of_experts), self.groups, of_experts.shape[1] // self.groups)

    def choose(self, top_k: int) -> Tensor:
        """Return ids [T, k] int32, best first; equal groups and experts by ascending number."""
        order = torch.argsort(self._allowed(), dim=1, descending=True, stable=True)
        return order[:, :top_k].to(torch.int32)

    def gap(self, top_k: int) -> Tensor:
        """Return [T], how far the choice of groups and of experts is from being another one."""
        gaps = [_gap(self._allowed(), top_k)]
        if self.chosen_groups < self.groups:
            gaps.append(_gap(self.of_groups, self.chosen_groups))
        return torch.stack(gaps).amin(dim=0)

    def _allowed(self) -> Tensor:
        """Return the keys [T, E] with -inf outside of the best groups."""
        if self.chosen_groups == self.groups:
            return self.values
        order = torch.argsort(self.of_groups, dim=1, descending=True, stable=True)
        kept = torch.zeros_like(order, dtype=torch.bool)
        kept.scatter_(1, order[:, : self.chosen_groups], True)
        return self.values.masked_fill(~self._spread(kept), -torch.inf)

    def _spread(self, of_groups: Tensor) -> Tensor:
        """Return [T, E], each expert's value of its group."""
        return of_groups.repeat_interleave(self.values.shape[1] // self.groups, dim=1)

    def is_valid(self, is_selected: Tensor) -> Tensor:
        """Return [T] bool: whether some choice of the best groups allows exactly these experts.

        Groups that may be equal to the last one that is kept may be kept or not. Those with a
        selected expert are; the others that are kept must have no better expert.
        """
        low, high = self.values - self.noise / 2, self.values + self.noise / 2
        lowest = high.masked_fill(~is_selected, torch.inf).amin(dim=1, keepdim=True)
        is_better = low.masked_fill(is_selected, -torch.inf) > lowest  # [T, E] would be selected
        better = self._by_group(is_better).any(dim=2)
        used = self._by_group(is_selected).any(dim=2)
        surely, possible = self._kept(self._sums(low), self._sums(high))
        kept = surely | used
        spare = self.chosen_groups - kept.sum(dim=1)
        fillers = (possible & ~kept & ~better).sum(dim=1)
        is_possible = (possible | ~used).all(dim=1)
        is_best = is_possible & ~(kept & better).any(dim=1)
        return is_best & (spare >= 0) & (fillers >= spare)

    def _kept(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return [T, groups] bool, which groups are kept surely, and which possibly.

        low, high: [T, groups], between which a group's score is. A group is surely kept if fewer
        others may be as good, and possibly if fewer are surely better.
        """
        if self.chosen_groups == self.groups:
            every = torch.ones_like(low, dtype=torch.bool)
            return every, every
        rival = high.sort(dim=1, descending=True).values[:, self.chosen_groups, None]
        last = low.sort(dim=1, descending=True).values[:, self.chosen_groups - 1, None]
        return low > rival, high >= last


def _gap(values: Tensor, count: int) -> Tensor:
    """Return [T], the distance of the `count` highest values [T, C] from the next one."""
    if count >= values.shape[1]:
        return values.new_full((len(values),), torch.inf)
    ordered = values.sort(dim=1, descending=True).values
    return ordered[:, count - 1] - ordered[:, count]
