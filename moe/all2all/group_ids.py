"""Number the experts of a group as released packages do, and find out which token a row is.

They take it that the experts of rank 0 come first, then those of rank 1, and that each rank holds
as many. Here the ids of a rank need not follow each other, ranks may hold fewer, and a token may
have experts that no rank of the group holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError

if TYPE_CHECKING:
    from torch import Tensor

    from moe.collectives import Group


@dataclass(frozen=True, kw_only=True)
class GroupIds:
    """Hold both directions. S ranks; a number is `rank * per_rank + place`.

    number_of: [E] int64, the number of each expert id; -1 = no rank of the group holds it.
    expert_of: [S, per_rank] int64, the expert id of each number; -1 = none.
    """

    number_of: Tensor
    expert_of: Tensor

    @classmethod
    def of(
        cls, experts_of: tuple[tuple[int, ...], ...], num_experts: int, device: torch.device
    ) -> GroupIds:
        """Return the numbers. experts_of: ids of each rank, in the order of its local experts.

        Raises MoEError if two ranks hold an expert.
        """
        per_rank = max(1, *map(len, experts_of))
        number_of = torch.full((num_experts,), -1, dtype=torch.int64)
        expert_of = torch.full((len(experts_of), per_rank), -1, dtype=torch.int64)
        for rank, experts in enumerate(experts_of):
            for place, expert in enumerate(experts):
                if number_of[expert] >= 0:
                    raise MoEError(
                        f"expert {expert} is on the ranks {int(number_of[expert]) // per_rank} and "
                        f"{rank} of the group, and this all2all backend sends a token to one of "
                        "them only: spread the experts over the ranks"
                    )
                number_of[expert] = rank * per_rank + place
                expert_of[rank, place] = expert
        return cls(number_of=number_of.to(device), expert_of=expert_of.to(device))

    @property
    def per_rank(self) -> int:
        """Return how many numbers a rank has."""
        return self.expert_of.shape[1]

    @property
    def total(self) -> int:
        """Return how many numbers there are."""
        return self.expert_of.numel()

    def numbers(self, topk_ids: Tensor) -> Tensor:
        """Return [T, k] int64 numbers of expert ids; -1 for ids that no rank of the group holds."""
        known = (topk_ids >= 0) & (topk_ids < len(self.number_of))
        return torch.where(known, self.number_of[topk_ids.where(known, 0).long()], -1)

    def experts(self, places: Tensor, rank: int) -> Tensor:
        """Return [T, k] int32 expert ids of a rank's local places; -1 stays."""
        return torch.where(places >= 0, self.expert_of[rank][places.clamp(min=0).long()], -1).int()

    def filled(self, numbers: Tensor, rank: int) -> Tensor:
        """Return [T, k] int32 numbers without -1, for kernels that would send those to rank 0.

        Such a slot gets another number of its token, whose rank gets the token anyway; a token
        without any gets the first number of its own rank, which then gets a row for no expert.
        """
        highest = numbers.max(dim=1, keepdim=True).values
        instead = torch.where(highest >= 0, highest, rank * self.per_rank)
        return torch.where(numbers >= 0, numbers, instead).int()


def starts_of(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the number of each rank's first token among the tokens of all ranks."""
    return tuple(accumulate(counts, initial=0))[:-1]


def ids_of_all(group: Group, topk_ids: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Return [sum of counts, k] int32, the ids of the tokens of all ranks. Collective."""
    longest = max(counts)
    padded = topk_ids.new_full((longest, topk_ids.shape[1]), -1, dtype=torch.int32)
    padded[: len(topk_ids)] = topk_ids.int()
    everyone = group.all_gather(padded).view(group.size, longest, topk_ids.shape[1])
    return torch.cat([rows[:count] for rows, count in zip(everyone, counts, strict=True)])
