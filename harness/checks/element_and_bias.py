"""What no row's bound sees: one element that is far off, and all rows off in one direction.

A row's bound is for its length, which one element of thousands hardly changes. And an error along
the rows themselves, as of a scale that is off or of values cut off instead of rounded, is small in
each row and adds up over all: in <y - q, q> what has a random direction comes to next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.result import Answer

# Standard deviations of a row's average element. Columns are not alike, and neither are the
# terms of a sum: the largest of 4,650 right outputs' elements took 7.
ELEMENT = 12.0
SURE = 6.0  # standard deviations that chance may take in the direction of the rows
# Columns of a row are not alike: E[q^4] = 3 E[q^2]^2 for normal ones, and steps grow with q.
_UNLIKE = 3.0
_FLOAT32 = 2.0**-18  # what three lengths in float32 may lose


@dataclass(frozen=True, kw_only=True)
class Finer:
    """element: [T] the share of its bound that each row's worst element takes.

    length: how much too long all rows together are along the reference, relative; may: how much
    noise makes them.
    """

    element: Tensor
    length: float
    may: float

    @property
    def elements(self) -> float:
        """The largest share of its bound that an element takes."""
        return float(self.element.amax())

    @property
    def direction(self) -> float:
        """The share of its bound that the direction of all rows takes."""
        return abs(self.length) / self.may if self.may else 0.0

    def complaints(self, actual: Tensor, expected: Tensor) -> list[str]:
        """[T, K] both, whose rows are all within their bounds."""
        found = []
        beyond = (~(self.element <= 1)).nonzero().flatten()
        if len(beyond):
            found.append(_element_text(actual, expected, self.element, beyond))
        if self.direction > 1:
            more = "more" if self.length > 0 else "less"
            found.append(
                f"all rows together are {abs(self.length):.2%} {more} than the reference along "
                f"it, and noise explains at most {self.may:.2%}: a scale that is off, or values "
                "that are cut off and not rounded"
            )
        return found


def measure(values: Tensor, expected: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """[T, K] each -> [T] each: lengths of the distance and both sides, and the worst element's
    distance. dtype: what the values were rounded to."""
    error = values - expected
    lengths = (torch.linalg.vector_norm(v, dim=1) for v in (error, values, expected))
    return (*lengths, _excess(error, expected, dtype).amax(dim=1))


def beyond(error: Tensor, answer: Answer, dtype: torch.dtype) -> Tensor:
    """[T, K] bool, the single elements that are too far off."""
    if answer.along is None:
        return torch.zeros_like(error, dtype=torch.bool)
    return _excess(error, answer.out, dtype) > _most(answer)[:, None]


def _excess(error: Tensor, expected: Tensor, dtype: torch.dtype) -> Tensor:
    """[T, K] what an element is off beyond two roundings to the dtype."""
    return error.abs().sub_(expected.abs(), alpha=2 * torch.finfo(dtype).eps)


def _most(answer: Answer) -> Tensor:
    """[T] what a single element may be off, beyond its roundings."""
    even = (answer.variance + answer.flips) / answer.out.shape[1]
    return (ELEMENT * even.sqrt()).clamp(min=1e-30)


def look(
    answer: Answer, distance: Tensor, actual: Tensor, reference: Tensor, peak: Tensor
) -> Finer:
    """[T] each, as `measure` gives them.

    Answers that no reference worked out have no `along`, and nothing is found.
    """
    if answer.along is None:
        return Finer(element=torch.zeros_like(peak), length=0.0, may=0.0)
    length, may = _direction(answer, answer.along, (distance, actual, reference))
    share = torch.where(peak > 0, peak / _most(answer), 0.0)
    return Finer(element=share, length=length, may=may)


def _direction(
    answer: Answer, along: Tensor, lengths: tuple[Tensor, Tensor, Tensor]
) -> tuple[float, float]:
    """<y - q, q> from the three lengths, and how far from 0 it may be; both over <q, q>."""
    d, y, q = (t.double().square() for t in lengths)
    fair = _UNLIKE / answer.out.shape[1] * q
    variance, flips, common = along.double()
    chance = (variance + fair * answer.variance).sum()
    sure = (flips + fair * answer.flips).sum()
    sums = torch.stack([(y - q - d).sum() / 2, chance, sure, common.sum(), q.sum()])
    off, chance_of, sure_of, all_of, whole = sums.tolist()
    if not whole:
        return 0.0, 0.0
    may = SURE * math.sqrt(chance_of) + math.sqrt(sure_of) + all_of
    return off / whole, may / whole + _FLOAT32


def _element_text(actual: Tensor, expected: Tensor, share: Tensor, beyond: Tensor) -> str:
    row = int(share.argmax())
    got = actual[row].to(expected.dtype)
    column = int((got - expected[row]).abs().argmax())
    return (
        f"no row is beyond its bound, but single elements are in {len(beyond)} of {len(actual)} "
        f"rows: [{row}, {column}] is {float(got[column]):.6g}, expected "
        f"{float(expected[row, column]):.6g}, {float(share[row]):.3g}x what one may be off"
    )
