"""List which other rows of its input a product may have read, as wrong indices lead to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.output_terms import place_among_equal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.diagnosis.stage_errors import StageErrors


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """The rows of a product, and of its input. flat: [R] int64, row * k + slot of each row.

    ids: [G, k] int64, local expert ids, -1 = none. of_tokens: whether the input has one row for
    each of the G rows; else one for each slot.
    """

    flat: Tensor
    ids: Tensor
    of_tokens: bool

    @classmethod
    def of(cls, handed: Handed, errors: StageErrors) -> Numbering:
        """Return that of the rows of a wrong product."""
        return cls(flat=errors.numbers, ids=handed.ids, of_tokens=errors.stage == "gemm1")

    @property
    def slots(self) -> int:
        """Return the number of slots of a row."""
        return self.ids.shape[1]

    @property
    def own(self) -> Tensor:
        """Return [R] int64, the input row that each row is to be computed from."""
        return self.flat // self.slots if self.of_tokens else self.flat

    @property
    def count(self) -> int:
        """Return the number of input rows."""
        return len(self.ids) if self.of_tokens else self.ids.numel()


def other_rows(rows: Numbering) -> Iterator[tuple[str, Tensor]]:
    """Yield rules in words, "the row ...", and the input row [R] that each gives.

    Numbers below 0, and from the number of input rows on, are no rows.
    """
    flat, slots, own = rows.flat, rows.slots, rows.own
    ids = rows.ids.flatten()
    order = torch.where(ids < 0, int(ids.max()) + 1, ids).argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    if rows.of_tokens and slots > 1:
        yield "with the number row * k + slot", flat
        yield "with the number row * k + slot, modulo the rows", flat % rows.count
    if not rows.of_tokens and slots > 1:
        yield "with the number of its token", flat // slots
        yield "with the number slot * rows + row", flat % slots * len(rows.ids) + flat // slots
    yield "with its number in the order of experts", place[flat]
    if slots > 1:
        yield "with its number in the order of experts // k", place[flat] // slots
    yield (
        "that comes there in the order of experts",
        order[own % len(order)] // (slots if rows.of_tokens else 1),
    )
    yield "with its number among its expert's rows", place_among_equal(ids)[flat]
    yield "with its expert's number on this rank", ids[flat]
    yield "with its slot's number", flat % slots
    for step, side in ((1, "before"), (-1, "after")):
        yield f"{side} its own", own - step
        yield f"{side} its own, in a circle", (own - step) % rows.count
    yield "that is the other one of its pair", own ^ 1
    yield "0", torch.zeros_like(own)
    yield "in its place from the last one on", rows.count - 1 - own
