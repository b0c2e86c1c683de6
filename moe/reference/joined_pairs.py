"""Join the pairs of experts that the same ranks hold, so that one operation computes them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.reference.ownership import holders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from moe.reference.error_propagation import Noisy
    from moe.reference.pairs import Pairs
    from moe.spec import LayerSpec

    Key = tuple[tuple[int, int, int], ...]
    Products = dict[Key, Noisy]  # the first products of joined pairs

# Elements that are there at once while pairs are computed together: the experts' matrices, and
# COPIES of the pairs' rows and products. tests/harness/plan/test_rank_peaks.py measures the bytes.
TOGETHER = {"cpu": 2**23, "cuda": 2**27}
COPIES = 8


@dataclass(frozen=True, kw_only=True)
class JoinedPairs:
    """Hold the pairs of some experts, one expert after the other.

    ranks: those that hold a part of each of the experts. columns: of each such rank. rows, slots:
    [R] int64. weight: [R] router weights. sizes: pairs of each expert. which: [R] int64 index of
    each pair's expert among `each`; None: of one expert.
    """

    each: tuple[Pairs, ...]
    ranks: slice
    columns: tuple[range, ...]
    rows: Tensor
    slots: Tensor
    weight: Tensor
    sizes: tuple[int, ...]
    which: Tensor | None

    @property
    def key(self) -> Key:
        """Return expert, adapter and owner of each: with the same rows this names the pairs."""
        return tuple((pairs.e, pairs.adapter, pairs.owner) for pairs in self.each)

    @property
    def divisor(self) -> Tensor:
        """Return [R, 1], the weights with 1 in place of zeros."""
        return torch.where(self.weight == 0, torch.ones_like(self.weight), self.weight)[:, None]

    def by_slot(self, values: Tensor, tokens: int, top_k: int) -> Tensor:
        """Return the sums [n, T] over the slots of each token of values [n, R].

        Each pair has a slot of its own, so that the order of the sum is the same in each run.
        """
        slots = values.new_zeros((len(values), top_k, tokens))
        slots[:, self.slots, self.rows] = values
        return slots.sum(dim=1)

    def add_rows(self, sums: Tensor, values: Tensor) -> None:
        """Add values [w, R, K] to the tokens' sums [w, T, K], one expert after the other."""
        parts = zip(self.each, torch.split(values, list(self.sizes), dim=1), strict=True)
        for pairs, part in parts:
            sums.index_add_(1, pairs.rows, part)


def joined(pairs: Sequence[Pairs], layer_spec: LayerSpec, rank: int) -> list[JoinedPairs]:
    """Return the pairs of experts that the same ranks hold, joined as far as memory allows.

    rank: one that has the tokens, see `holders`.
    """
    by_holders: dict[tuple[int, int, tuple[range, ...]], list[Pairs]] = {}
    for of_expert in pairs:
        ranks, columns = holders(layer_spec, of_expert.e, of_expert.owner, rank)
        held = ranks.start, ranks.stop, tuple(columns)
        by_holders.setdefault(held, []).append(of_expert)
    return [
        _joined(part, slice(start, stop), columns)
        for (start, stop, columns), held_pairs in by_holders.items()
        for part in _chunks(held_pairs, layer_spec, stop - start)
    ]


def _chunks(pairs: Sequence[Pairs], spec: LayerSpec, ranks: int) -> Iterator[list[Pairs]]:
    """Yield the pairs in parts of at most `TOGETHER` elements, each of one expert or more."""
    weights = 3 * spec.intermediate * spec.expert_hidden
    part: list[Pairs] = []
    elements = 0
    for of_expert in pairs:
        width = 2 * spec.intermediate + (1 + ranks) * spec.hidden
        more = weights + COPIES * len(of_expert.rows) * width
        limit = TOGETHER.get(of_expert.rows.device.type, TOGETHER["cpu"])
        if part and elements + more > limit:
            yield part
            part, elements = [], 0
        part.append(of_expert)
        elements += more
    if part:
        yield part


def _joined(each: Sequence[Pairs], ranks: slice, columns: tuple[range, ...]) -> JoinedPairs:
    """Return the pairs of some experts as one."""
    sizes = tuple(len(pairs.rows) for pairs in each)
    if len(each) == 1:
        rows, slots, weight, which = each[0].rows, each[0].slots, each[0].weight, None
    else:
        rows = torch.cat([pairs.rows for pairs in each])
        slots = torch.cat([pairs.slots for pairs in each])
        weight = torch.cat([pairs.weight for pairs in each])
        counts = torch.tensor(sizes, device=rows.device)
        which = torch.arange(len(each), device=rows.device).repeat_interleave(
            counts, output_size=sum(sizes)
        )
    return JoinedPairs(
        each=tuple(each),
        ranks=ranks,
        columns=columns,
        rows=rows,
        slots=slots,
        weight=weight,
        sizes=sizes,
        which=which,
    )
