"""Find of which other group of inputs each group of a product's weights has its scale.

Scales, and zero points, that lie in another order than they are read in are those of other groups.
For each group it is solved for whose they are, so that no order has to be guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.diagnosis.stage_terms import of_product
from harness.diagnosis.which_weights import RIGHT_ROWS, WRONG_ROWS, multiplied
from harness.diagnosis.wrong_rows import spread
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from harness.diagnosis.weight_codes import Codes
    from harness.diagnosis.which_weights import Multiplied

NAME = "which_groups"
COLUMNS = 64  # of the product, from which it is solved for
MOST_GROUPS = 16
ENOUGH = 4  # elements for each unknown
SURE = 0.75  # share of one group, beyond which no other has as much
KINDS = {
    "scales": (True, False),
    "zero points": (False, True),
    "scales and zero points": (True, True),
}


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield whose scales or zero points the groups of a wrong product's weights have."""
    product = of_product(evidence, WRONG_ROWS, RIGHT_ROWS)
    if product is None:
        return
    errors, handed = product
    block = handed.subject.reference.weight_format.block
    group = None if block is None else block[1]
    if group is not None:
        yield from which_groups(errors, multiplied(handed, errors), group)


def which_groups(errors: StageErrors, given: Sequence[Multiplied], group: int) -> list[NamedCause]:
    """Return the statement, or none. group: columns of the inner dimension that share a scale."""
    if not given or not bool(errors.actual.isfinite().all()):
        return []
    inner = given[0].x.shape[1]
    count = inner // group
    if inner % group or not 1 < count <= MOST_GROUPS:
        return []
    has_zeros = bool(given[0].codes.zero.any())
    for noun, moves in KINDS.items():
        if moves[1] and not has_zeros:
            continue
        sources = _sources(errors, given, group, moves)
        if sources is None or bool((sources == torch.arange(count, device=sources.device)).all()):
            continue
        predicted = errors.expected.clone()
        for one in given:
            predicted[one.rows] += (
                one.x @ (_of(one.codes, group, sources, moves) - one.codes.values).T
            )
        fit = errors.fitting(predicted)
        if fit is not None:
            text = f"{errors.place} the weights have the {noun} of other groups of inputs: "
            text += f"group {_listed(range(count))} that of {_listed(sources.tolist())}"
            return [NamedCause(name=NAME, cause=text, residual=fit[0], where=fit[1])]
    return []


def _listed(numbers: Sequence[int]) -> str:
    return " ".join(str(number) for number in numbers)


def _of(codes: Codes, group: int, sources: Tensor, moves: tuple[bool, bool]) -> Tensor:
    """Return [C, I], the weights if each group g has the scale or zero point of sources[g]."""
    at = (sources.repeat_interleave(group) * group).to(codes.scale.device)
    scale = codes.scale[:, at] if moves[0] else codes.scale
    zero = codes.zero[:, at] if moves[1] else codes.zero
    return (codes.codes - zero) * scale


def _sources(
    errors: StageErrors, given: Sequence[Multiplied], group: int, moves: tuple[bool, bool]
) -> Tensor | None:
    """Return [G] int64, whose scale or zero point each group has; None if nothing tells.

    What a group adds with those of each group is computed; how often each is there, is solved for.
    """
    count = given[0].x.shape[1] // group
    columns = spread(torch.arange(errors.actual.shape[1], device=errors.actual.device), COLUMNS)
    if sum(len(one.rows) for one in given) * len(columns) < ENOUGH * count**2:
        return None
    size = count**2
    gram = torch.zeros((size, size), dtype=torch.float64, device=columns.device)
    right = gram.new_zeros(size)
    for one in given:
        noise = errors.noise[one.rows][:, columns].double()
        change = (errors.actual - errors.expected)[one.rows][:, columns].double()
        terms = _terms(one, group, columns, moves).double()  # [G, G, n, c]
        own = terms.diagonal(dim1=0, dim2=1).sum(dim=2)
        wanted = ((change + own) / noise).flatten()
        of_each = (terms / noise).flatten(2).flatten(0, 1)
        gram += of_each @ of_each.T
        right += of_each @ wanted
    shares = (torch.linalg.pinv(gram, rtol=1e-9, hermitian=True) @ right).view(count, count)
    largest = shares.max(dim=1)
    return largest.indices if bool((largest.values > SURE).all()) else None


def _terms(one: Multiplied, group: int, columns: Tensor, moves: tuple[bool, bool]) -> Tensor:
    """Return [G, G, n, c], what each group g adds with the scale or zero point of each group h."""
    codes, count = one.codes, one.x.shape[1] // group
    x = torch.stack(torch.split(one.x, group, dim=1))  # [G, n, g]
    terms = []
    for source in range(count):
        same = torch.full((count,), source, device=columns.device)
        w = torch.stack(torch.split(_of(codes, group, same, moves)[columns], group, dim=1))
        terms.append(x @ w.mT)
    return torch.stack(terms, dim=1)
