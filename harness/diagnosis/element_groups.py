"""Divide the elements of a stage into groups of rows and columns that a mistake may treat alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.conditions import Fact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.stage_errors import StageErrors

BLOCKS = (128, 64, 32, 16)  # of columns, the largest first
KINDS = ("expert", "slot", "token")  # facts of rows by which these are divided, too
# Elements for each group, on average: a factor for each n elements leaves about (1 - 1 / n) of the
# square of any other error, far more than a statement may.
ENOUGH = 2.5


@dataclass(frozen=True, kw_only=True)
class Groups:
    """A division of R rows and C columns. name: of one group, such as "column", or empty.

    rows: [R] int64 and columns: [C] int64, the number of each row's and each column's group.
    facts: of the groups, [G], G = row groups * column groups; number r * column groups + c.
    """

    name: str
    rows: Tensor
    columns: Tensor
    facts: tuple[Fact, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Return the number of groups of rows, and of columns."""
        return int(self.rows.max()) + 1, int(self.columns.max()) + 1

    @property
    def of_element(self) -> Tensor:
        """Return [R, C] int64, the group of each element."""
        return self.rows[:, None] * self.shape[1] + self.columns


def groups_of(errors: StageErrors) -> Iterator[Groups]:
    """Yield divisions, those with the fewest groups first."""
    divisions = [_both(row, column) for row in _of_rows(errors) for column in _of_columns(errors)]
    for groups in sorted(divisions, key=lambda g: g.shape[0] * g.shape[1]):
        if _are_enough(groups, errors.is_wrong):
            yield groups


def _are_enough(groups: Groups, is_wrong: Tensor) -> bool:
    """Tell whether all groups have enough elements, and so those that have wrong ones."""
    of_element = groups.of_element
    counts = torch.bincount(of_element.flatten(), minlength=groups.shape[0] * groups.shape[1])
    with_wrong = torch.bincount(of_element[is_wrong], minlength=len(counts)) > 0
    parts = (counts, counts[with_wrong]) if bool(with_wrong.any()) else (counts,)
    return all(float(part.double().mean()) >= ENOUGH for part in parts)


@dataclass(frozen=True, kw_only=True)
class _Keys:
    """One side of a division. name: of a group. of_item: [N] group numbers. facts: of groups."""

    name: str
    of_item: Tensor
    facts: tuple[Fact, ...]


def _of_rows(errors: StageErrors) -> Iterator[_Keys]:
    count, device = len(errors.actual), errors.actual.device
    yield _Keys(name="", of_item=torch.zeros(count, dtype=torch.int64, device=device), facts=())
    for fact in errors.facts:
        if fact.one in KINDS and not bool(fact.values.isnan().any()):
            values, at = torch.unique(fact.values, return_inverse=True)
            if 1 < len(values) < count:
                yield _Keys(name=fact.one, of_item=at, facts=(fact.with_values(values),))
    if count > 1:
        yield _Keys(name="row", of_item=torch.arange(count, device=device), facts=errors.facts)


def _of_columns(errors: StageErrors) -> Iterator[_Keys]:
    count, device = errors.actual.shape[1], errors.actual.device
    numbers = torch.arange(count, device=device)
    yield _Keys(name="", of_item=torch.zeros_like(numbers), facts=())
    if errors.halves and count % 2 == 0:
        half = numbers // (count // 2)
        fact = Fact(one="", many="", values=_counted(half), names=("gate", "up"))
        yield _Keys(name="half", of_item=half, facts=(fact,))
    for block in BLOCKS:
        if block < count:
            at = numbers // block
            fact = Fact(one="column", many="columns", values=_counted(at), unit=block)
            yield _Keys(name=f"block of {block} columns", of_item=at, facts=(fact,))
    fact = Fact(one="column", many="columns", values=numbers.double())
    yield _Keys(name="column", of_item=numbers, facts=(fact,))


def _counted(at: Tensor) -> Tensor:
    return torch.arange(int(at.max()) + 1, device=at.device, dtype=torch.float64)


def _both(rows: _Keys, columns: _Keys) -> Groups:
    down, across = int(rows.of_item.max()) + 1, int(columns.of_item.max()) + 1
    facts = [f.with_values(f.values.repeat_interleave(across)) for f in rows.facts]
    facts += [f.with_values(f.values.repeat(down)) for f in columns.facts]
    name = " and ".join(filter(None, (rows.name, columns.name)))
    return Groups(name=name, rows=rows.of_item, columns=columns.of_item, facts=tuple(facts))
