"""Choose by score + bias within the best groups of experts, and check such a choice: float64.

A group is as good as its two best experts together. Any choice among ties is valid, of groups as
of experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Hold the keys by which experts are chosen, [T, E] float64, higher is better.

    noise: [T, 1] absolute error of a key that is tolerated. groups, chosen_groups: as in
    `moe.routing_method.RoutingMethod`.
    """

    values: Tensor
    noise: Tensor
    groups: int
    chosen_groups: int

    @property
    def of_groups(self) -> Tensor:
        """Return [T, groups], the sum of each group's two highest keys."""
        best = self._by_group(self.values).sort(dim=2, descending=True).values[:, :, :2]
        return best.sum(dim=2)

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

        Groups within noise of the last one that is kept may be kept or not. Those with a selected
        expert are; the others that are kept must have no better expert.
        """
        lowest = self.values.masked_fill(~is_selected, torch.inf).amin(dim=1, keepdim=True)
        rest = self.values.masked_fill(is_selected, -torch.inf)
        is_better = rest > lowest + self.noise  # [T, E] experts that would have to be selected
        better = self._by_group(is_better).any(dim=2)
        used = self._by_group(is_selected).any(dim=2)
        score = self.of_groups
        last = score.sort(dim=1, descending=True).values[:, self.chosen_groups - 1, None]
        surely = score > last + 2 * self.noise
        possible = score >= last - 2 * self.noise
        kept = surely | used
        spare = self.chosen_groups - kept.sum(dim=1)
        fillers = (possible & ~kept & ~better).sum(dim=1)
        is_possible = (possible | ~used).all(dim=1)
        is_best = is_possible & ~(kept & better).any(dim=1)
        return is_best & (spare >= 0) & (fillers >= spare)


def _gap(values: Tensor, count: int) -> Tensor:
    """Return [T], the distance of the `count` highest values [T, C] from the next one."""
    if count >= values.shape[1]:
        return values.new_full((len(values),), torch.inf)
    ordered = values.sort(dim=1, descending=True).values
    return ordered[:, count - 1] - ordered[:, count]
