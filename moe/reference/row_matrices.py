"""Multiply rows by matrices of which each belongs to some of the rows, as experts' matrices do.

All else that the reference does with such rows is done for all of them at once: a layer of many
experts and few tokens would spend its time in starting small operations otherwise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.reference.kept_sums import kept, row_squares

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RowMatrices:
    """Hold matrices [O, I] and the rows of each.

    sizes: how many of the R rows each matrix has; they follow each other. which: [R] int64, the
    index of each row's matrix; None: there is one matrix, for any number of rows.
    """

    matrices: tuple[Tensor, ...]
    sizes: tuple[int, ...] = ()
    which: Tensor | None = None

    @classmethod
    def one(cls, matrix: Tensor) -> RowMatrices:
        """Return one matrix [O, I] for all rows."""
        return cls(matrices=(matrix,))

    def product(self, x: Tensor, of: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return [R, O] or [w, R, O], rows of x [R, I] or [w, R, I] times their matrices.

        of: returns what is multiplied in place of a matrix, [O, I], or [w, O, I] one for each rank.
        """
        matrices = self.matrices if of is None else tuple(map(of, self.matrices))
        parts = (x,) if self.which is None else torch.split(x, list(self.sizes), dim=-2)
        products = [part @ w.mT for part, w in zip(parts, matrices, strict=True)]
        return products[0] if len(products) == 1 else torch.cat(products, dim=-2)

    def of_rows(self, name: Hashable, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what `make` returns for each row's matrix, [R, ...], or [1, ...] of one matrix.

        It is kept with the matrix under the name.
        """
        return self.spread([kept(w, name, functools.partial(make, w)) for w in self.matrices])

    def squares(self) -> Tensor:
        """Return [R, O] or [1, O], the squared lengths of the rows of each row's matrix."""
        return self.spread([row_squares(w) for w in self.matrices])

    def spread(self, of_each: list[Tensor]) -> Tensor:
        """Return what belongs to each row, [R, ...] or [1, ...], of what belongs to each matrix."""
        stacked = torch.stack(of_each)
        return stacked if self.which is None else stacked[self.which]
