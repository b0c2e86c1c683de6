"""Find parts of a product that are left out or scaled otherwise: ends of its inner dimension, and
blocks of it in blocks of columns, as wrong scales and zero points of weights make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.stages_products import operands
from harness.diagnosis.conditions import Fact, splitting
from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.stage_terms import of_product
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "which_parts"
WRONG_ROWS, RIGHT_ROWS = 64, 16  # at most
LENGTHS = tuple(range(1, 17))  # of an end of the inner dimension
TILES = (16, 32, 64, 128, 256)  # of which such an end may be the rest
BLOCKS = (256, 128, 64, 32, 16)  # of the inner dimension
WIDTHS = (128, 64, 32, 16, 1)  # of columns
FEW = 3  # blocks that are listed
MOST_BLOCKS = 32
MOST_TERMS = 2**22  # elements of all blocks' products
ENOUGH = 4  # elements for each unknown
SPARE = 64  # elements beyond the unknowns
# Rows for each amount of a column: n rows for each leave sqrt(1 - 1 / n) of any other error, which
# must be far more than a statement may.
FEWEST = 2
MOST_CHANGED = 0.5  # fraction of the columns
SURE = 1.0  # times the error of a factor, beyond which it is surely not 1
SAME = 0.01  # relative distance at which two factors are the same


@dataclass(frozen=True, kw_only=True)
class Operands:
    """What an expert's product multiplies. rows: [n] of the stage's, x: [n, I], w: [C, I]."""

    expert: int
    rows: Tensor
    x: Tensor
    w: Tensor

    def blocks(self, size: int) -> Tensor:
        """Return [n, P, C], what each block of the inner dimension adds."""
        parts = [
            self.x[:, start : start + size] @ self.w[:, start : start + size].T
            for start in range(0, self.x.shape[1], size)
        ]
        return torch.stack(parts, dim=1)


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield which parts of a wrong product are otherwise; at most one statement."""
    product = of_product(evidence, WRONG_ROWS, RIGHT_ROWS)
    if product is None:
        return
    errors, handed = product
    given = [
        Operands(
            expert=int(handed.global_ids(handed.ids.flatten()[errors.numbers[rows[0]]])),
            rows=rows,
            x=x,
            w=w,
        )
        for rows, x, w in operands(handed, errors.stage, errors.numbers)
    ]
    yield from which_parts(errors, given)


def which_parts(errors: StageErrors, given: Sequence[Operands]) -> list[NamedCause]:
    """Return the statement, or none, about a product of these operands."""
    if not given or not bool(errors.actual.isfinite().all()):
        return []
    for search in (ends, scales, zero_points):
        cause = search(errors, given)
        if cause is not None:
            return [cause]
    return []


def _cause(errors: StageErrors, text: str, residual: float) -> NamedCause:
    return NamedCause(name=NAME, cause=f"{errors.place} {text}", residual=residual)


def _tested(errors: StageErrors, predicted: Tensor) -> float | None:
    residual = errors.left_by(predicted)
    return residual if residual is not None and residual <= MAX_RESIDUAL else None


def ends(errors: StageErrors, given: Sequence[Operands]) -> NamedCause | None:
    """Return the cause if the last or first elements of each sum are left out, or count twice."""
    inner = given[0].x.shape[1]
    name = "k" if errors.stage == "gemm1" else "n"
    for length in sorted({*LENGTHS, *(inner % tile for tile in TILES)} - {0}):
        if length >= inner:
            continue
        for part, text in (
            (slice(inner - length, inner), f"{name} >= {inner - length}, the last {length}"),
            (slice(0, length), f"{name} < {length}, the first {length}"),
        ):
            change = torch.zeros_like(errors.expected)
            for one in given:
                change[one.rows] = one.x[:, part] @ one.w[:, part].T
            for sign, what in ((-1, "are left out"), (1, "count twice")):
                residual = _tested(errors, errors.expected + sign * change)
                if residual is not None:
                    return _cause(errors, f"the products of {text} of {inner}, {what}", residual)
    return None


def scales(errors: StageErrors, given: Sequence[Operands]) -> NamedCause | None:
    """Return the cause if blocks of the inner dimension count by a factor of their columns."""
    inner, columns = given[0].x.shape[1], errors.actual.shape[1]
    widths = [columns, *([columns // 2] if errors.halves else []), *WIDTHS]
    sizes = [(b, w) for b in BLOCKS for w in widths if b < inner and w <= columns]
    for block, width in sorted(sizes, key=lambda s: inner / s[0] * columns / s[1]):
        count, groups = -(-inner // block), -(-columns // width)
        fewest = min(len(one.rows) for one in given) * min(width, columns)
        too_many = count > MOST_BLOCKS or count * errors.actual.numel() > MOST_TERMS
        if too_many or fewest < ENOUGH * count:
            continue
        factors = [_factors(errors, one, block, width) for one in given]
        predicted = errors.expected.clone()
        for one, (factor, _) in zip(given, factors, strict=True):
            of_column = torch.arange(columns, device=predicted.device) // width
            times = factor[of_column].T.float() - 1  # [P, C]
            predicted[one.rows] += (one.blocks(block) * times).sum(dim=1)
        residual = _tested(errors, predicted)
        if residual is not None:
            text = _scales_text(errors, given, factors, (block, width, count, groups))
            return None if text is None else _cause(errors, text, residual)
    return None


def _factors(errors: StageErrors, one: Operands, block: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the factor of each group of columns and block [G, P], and the most that it is off."""
    terms, tolerance = one.blocks(block).double(), errors.noise[one.rows].double()
    change = (errors.actual - errors.expected)[one.rows].double() / tolerance
    terms = terms / tolerance[:, None]
    columns = terms.shape[2]
    at = torch.arange(columns, device=terms.device) // width
    groups = int(at.max()) + 1
    gram = torch.einsum("rpc,rqc->cpq", terms, terms)
    right = torch.einsum("rpc,rc->cp", terms, change)
    gram = gram.new_zeros((groups, *gram.shape[1:])).index_add(0, at, gram)
    right = right.new_zeros((groups, right.shape[1])).index_add(0, at, right)
    inverse = torch.linalg.pinv(gram, rtol=1e-9, hermitian=True)
    error = inverse.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    return 1 + (inverse @ right[:, :, None])[:, :, 0], error


def _scales_text(
    errors: StageErrors,
    given: Sequence[Operands],
    factors: Sequence[tuple[Tensor, Tensor]],
    shape: tuple[int, int, int, int],
) -> str | None:
    """Return which blocks count by which factor; None if none surely does not count once."""
    block, width, count, groups = shape
    factor = torch.stack([value for value, _ in factors])  # [E, G, P]
    error = torch.stack([value for _, value in factors])
    changed = (factor - 1).abs() > SURE * error.clamp(min=1e-6)
    if not bool(changed.any()):
        return None
    name = "k" if errors.stage == "gemm1" else "n"
    numbers = torch.arange(factor.numel(), device=factor.device)
    facts = [Fact(one=name, many=name, values=(numbers % count).double(), unit=block)]
    if groups > 1:
        of_group = (numbers // count % groups).double()
        facts.append(Fact(one="column", many="columns", values=of_group, unit=width))
    if len(given) > 1:
        experts = torch.tensor([one.expert for one in given], device=factor.device)
        of_expert = experts[numbers // (count * groups)].double()
        facts.append(Fact(one="expert", many="experts", values=of_expert))
    where = _which(facts, changed.flatten())
    values = factor[changed]
    middle = float(values.median())
    each = f"each block of {block} of {name}"
    each += f" and {width} columns" if groups > 1 else ""
    if bool(((values - middle).abs() <= SAME * max(abs(middle), SAME)).all()):
        return f"the products {where} count {middle:.3g} times"
    ends_text = f"{float(values.min()):.3g} to {float(values.max()):.3g}"
    return (
        f"the products {where} count by another factor for {each}, as by wrong scales: {ends_text}"
    )


def _which(facts: Sequence[Fact], changed: Tensor) -> str:
    """Return which blocks are changed, as the end of "the products"."""
    if bool(changed.all()):
        return "of all blocks"
    conditions = splitting(facts, changed, ~changed)
    if conditions:
        return f"of {conditions[0].text}"
    numbers = changed.nonzero().flatten().tolist()
    places = [fact for fact in facts if fact.one != "expert"]
    items = {" with ".join(fact.of_item(n) for fact in places): None for n in numbers}
    if len(items) <= FEW:
        return f"of {' and '.join(items)}"
    return f"of {len(numbers)} of {len(changed)} blocks"


def zero_points(errors: StageErrors, given: Sequence[Operands]) -> NamedCause | None:
    """Return the cause if each column's weights are off by one amount in a block of the inner
    dimension: its rows are then off by that amount times the sum of their inputs there.
    """
    inner = given[0].x.shape[1]
    name = "k" if errors.stage == "gemm1" else "n"
    for block in (inner, *(b for b in BLOCKS if b < inner)):
        count = -(-inner // block)
        spare = min((len(one.rows) - count) * len(one.w) for one in given)
        if spare < SPARE or min(len(one.rows) for one in given) < FEWEST * count:
            continue
        predicted = errors.expected.clone()
        is_changed = torch.zeros(count, dtype=torch.bool, device=predicted.device)
        for one in given:
            amount, error = _amounts(errors, one, block)
            predicted[one.rows] += (_sums(one.x, block) @ amount.T).float()
            is_changed |= (amount.abs() > error).double().mean(dim=0) > MOST_CHANGED
        residual = _tested(errors, predicted)
        if residual is not None and bool(is_changed.any()):
            numbers = torch.arange(count, device=predicted.device).double()
            fact = Fact(one=name, many=name, values=numbers, unit=block)
            which = fact.text([int(v) for v in numbers[is_changed].tolist()])
            where = "" if bool(is_changed.all()) else f" of {which}"
            text = f"the weights{where} are off by one amount for each column"
            each = "" if block == inner else f" and block of {block} of {name}"
            return _cause(errors, f"{text}{each}, as by wrong zero points", residual)
    return None


def _sums(x: Tensor, block: int) -> Tensor:
    """Return [n, P] float64, the sum of each block of the inputs x [n, I]."""
    starts = range(0, x.shape[1], block)
    return torch.stack([x[:, s : s + block].double().sum(dim=1) for s in starts], dim=1)


def _amounts(errors: StageErrors, one: Operands, block: int) -> tuple[Tensor, Tensor]:
    """Return by which amount each column's weights are off in each block [C, P], and its error."""
    sums, weight = _sums(one.x, block), errors.noise[one.rows].double().square().reciprocal()
    change = (errors.actual - errors.expected)[one.rows].double()
    gram = torch.einsum("np,nq,nc->cpq", sums, sums, weight)
    right = torch.einsum("np,nc->cp", sums, weight * change)
    inverse = torch.linalg.pinv(gram, rtol=1e-9, hermitian=True)
    error = inverse.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    return (inverse @ right[:, :, None])[:, :, 0], error
