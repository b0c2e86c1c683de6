"""Hold a wrong result as a sum of terms, to find how often each term is in it.

What is a sum: a row of the output, over the slots of its token, over ranks, with the shared
experts; an element of a product, over blocks of its inner dimension.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.conditions import only_where
from harness.diagnosis.fit import MAX_RESIDUAL, grid_of, lengths
from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from torch import Tensor

    from harness.diagnosis.conditions import Fact


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A result of R rows and C columns, each row the sum of P terms. float32 unless noted.

    noun: what a term is called, in the plural. actual, expected: [R, C]. tolerance: [R], the norm
    of a right row's error. is_wrong: [R] bool. values: [R, P, C]; terms that a row lacks are zero.
    facts: of each term, [R * P]. where: as of a NamedCause, if the columns are not all.
    stage: whose result it is; empty for the layer's output. numbers: [R], the rows' numbers in it,
    if the terms are the slots of these rows.
    """

    noun: str
    actual: Tensor
    expected: Tensor
    tolerance: Tensor
    is_wrong: Tensor
    values: Tensor
    facts: tuple[Fact, ...]
    where: str = ""
    stage: str = ""
    numbers: Tensor | None = None

    @property
    def has_term(self) -> Tensor:
        """Return [R, P] bool: the terms that are not zero."""
        return (self.values != 0).any(dim=2)

    @property
    def facts_of_rows(self) -> list[Fact]:
        """Return what is known of rows: the facts whose values are the same for all their terms."""
        rows, count = self.values.shape[:2]
        facts = []
        for fact in self.facts:
            values = fact.values.view(rows, count)
            is_known = ~values.isnan()
            first = values.nan_to_num(-torch.inf).amax(dim=1)
            if bool(((values == first[:, None]) | ~is_known).all() & first.isfinite().all()):
                facts.append(fact.with_values(first))
        return facts

    @cached_property
    def counts(self) -> Counts:
        """Return how often each term is in each row."""
        return counted(self)

    def changed_by(self, counts: Tensor) -> Tensor:
        """Return [R, C], the result with each term [R, P] counted so often."""
        return self.expected + torch.einsum("rp,rpc->rc", counts - 1, self.values)

    def in_columns(self, columns: Tensor) -> Terms:
        """Return these columns only. columns: [C] bool."""
        part = {name: getattr(self, name)[:, columns] for name in ("actual", "expected")}
        share = float(columns.double().mean()) ** 0.5
        return dataclasses.replace(
            self,
            **part,
            values=self.values[:, :, columns],
            tolerance=self.tolerance * share,
            where="in the wrong columns only",
        )


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How often each term is in the result. value, error: [R, P] float64, and the most it is off.

    explained: [R] bool, rows of which the sum of their terms leaves no more than a right row's
    error.
    """

    value: Tensor
    error: Tensor
    explained: Tensor


def counted(terms: Terms) -> Counts:
    """Solve for how often each term is in each row, by least squares."""
    values = terms.values.double()
    change = (terms.actual.double() - terms.expected.double())[:, :, None]
    gram = values @ values.mT  # [R, P, P]
    inverse = torch.linalg.pinv(gram, rtol=1e-9, hermitian=True)
    solved = 1 + (inverse @ (values @ change))[:, :, 0]
    tolerance = terms.tolerance.double()
    predicted = terms.changed_by(solved.float())
    factor = relative_size(predicted, terms.expected)
    error = (
        tolerance[:, None] * factor[:, None] * inverse.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    )
    residual = lengths(terms.actual, predicted, _unit(terms.expected))
    return Counts(value=solved, error=error, explained=residual <= tolerance * factor)


def relative_size(predicted: Tensor, expected: Tensor) -> Tensor:
    """Return [R], by how much larger predicted rows are; at least 1: their noise is larger, too."""
    ratio = predicted.nan_to_num().norm(dim=1) / expected.norm(dim=1).clamp(min=1e-38)
    factor: Tensor = ratio.clamp(min=1, max=1e3).double()
    return factor


def _unit(expected: Tensor) -> Tensor:
    return expected.square().mean(dim=1, keepdim=True).sqrt()


def left_by(terms: Terms, predicted: Tensor) -> tuple[Tensor, float]:
    """Return whether each row fits a prediction [R, C], and how much of the error it leaves."""
    unit = _unit(terms.expected)
    residual = lengths(terms.actual, predicted, unit)
    fits = residual <= terms.tolerance.double() * relative_size(predicted, terms.expected)
    wrong = terms.is_wrong
    error = lengths(terms.actual, terms.expected, unit)[wrong].norm()
    return fits, float(residual[wrong].norm() / error.clamp(min=1e-38))


def fitted_where(terms: Terms, predicted: Tensor) -> tuple[float, str] | None:
    """Return which part of the error a prediction [R, C] leaves, and where it holds; or None.

    It holds in all rows, or in the wrong ones only; these are told by a condition on their numbers.
    """
    residual = fitted(terms, predicted)
    if residual is not None and residual <= MAX_RESIDUAL:
        return residual, terms.where
    wrong = terms.is_wrong
    if bool(wrong.all()) or terms.where:
        return None
    residual = fitted(terms, torch.where(wrong[:, None], predicted, terms.expected))
    if residual is None or residual > MAX_RESIDUAL:
        return None
    return residual, only_where(terms.facts_of_rows, wrong)


def fitted(terms: Terms, predicted: Tensor) -> float | None:
    """Return which part of the error a prediction [R, C] leaves; None unless all rows fit.

    It is rounded as the values are, since an error may be as small as a rounding.
    """
    fits, residual = left_by(terms, predicted)
    if not bool(fits.all() and terms.is_wrong.any()):
        return None
    grid = grid_of(terms.actual)
    rounded = residual if grid is None else left_by(terms, on_grid(predicted, grid))[1]
    return min(residual, rounded)
