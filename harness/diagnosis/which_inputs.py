"""Find of which other input a wrong product is: other rows, other scales, or its own row otherwise.

What an expert's rows should be multiplied by is known; each reading of the input is multiplied by
it and compared with what the stage holds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.stages_products import input_rows, operands
from harness.diagnosis.input_readings import Values, readings
from harness.diagnosis.other_input_rows import Numbering, other_rows
from harness.diagnosis.stage_errors import MARGIN
from harness.diagnosis.stage_moved import moved_text
from harness.diagnosis.stage_terms import of_product, row_factors
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "which_inputs"
WRONG_ROWS, RIGHT_ROWS = 32, 16  # at most
MOST_INPUTS = 2048  # rows that a wrong one is compared with
MOST_ELEMENTS = 2**21  # of a rank's weights, beyond which the readings would take seconds
FEWEST = 2  # wrong rows: a single one may be like another reading by chance
MOST_NAMED = 2


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product of R rows. parts: for each expert its rows [n] and its weights [C, I].

    inputs: all S rows of the input. rows: which of them belongs to each of the R rows. factor:
    [R, 1], by which a row of the product is multiplied.
    """

    parts: Sequence[tuple[Tensor, Tensor]]
    inputs: Values
    rows: Numbering
    factor: Tensor

    def of(self, x: Tensor) -> Tensor:
        """Return [R, C], the products of other inputs x [R, I]."""
        products = [x[rows] @ w.T for rows, w in self.parts]
        order = torch.cat([rows for rows, _ in self.parts]).argsort()
        return torch.cat(products)[order] * self.factor


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield of which other inputs the products are."""
    wrong = of_product(evidence, WRONG_ROWS, RIGHT_ROWS)
    if wrong is None:
        return
    errors, handed = wrong
    both = input_rows(handed, errors.stage)
    parts = [] if both is None else operands(handed, errors.stage, errors.numbers)
    if both is None or not parts or sum(w.numel() for _, _, w in parts) > MOST_ELEMENTS:
        return
    fmt = handed.subject.reference.act_format
    product = Product(
        parts=[(rows, w) for rows, _, w in parts],
        inputs=Values(codes=both[0], scale=both[1], group=fmt.group),
        rows=Numbering.of(handed, errors),
        factor=row_factors(handed, errors),
    )
    yield from which_inputs(errors, product)


def which_inputs(errors: StageErrors, product: Product) -> list[NamedCause]:
    """Return at most MOST_NAMED statements: of whole rows, of scales alone, of readings."""
    own = product.rows.own
    right = product.of(product.inputs.values[own])
    named: list[tuple[int, bool, NamedCause]] = []
    for text, x in _others(product):
        is_known = x.isfinite().all(dim=1)
        fit = _fit(errors, right, product.of(x.nan_to_num()), is_known)
        if fit is not None:
            residual, where = fit
            cause = f"{errors.place} the products are those of {text}"
            statement = NamedCause(name=NAME, cause=cause, residual=residual, where=where)
            named.append((int((~is_known).sum()), bool(where), statement))
    if named:  # those that explain the most rows
        best = min(one[:2] for one in named)
        return [cause for *quality, cause in named if tuple(quality) == best][:MOST_NAMED]
    nearest = nearest_rows(errors, product, right)
    return [] if nearest is None else [nearest]


def _others(product: Product) -> Iterator[tuple[str, Tensor]]:
    """Yield other inputs in words and their values [R, I], NaN in rows that are none."""
    inputs, own = product.inputs, product.rows.own
    for text, at in other_rows(product.rows):
        if not torch.equal(at, own):
            yield f"the input row {text}, not of its own", _taken(inputs.values, at)
    if inputs.has_row_scales:
        for text, at in other_rows(product.rows):
            if not torch.equal(at, own):
                x = inputs.codes[own] * _taken(inputs.scale, at)
                yield f"its own codes, with the scales of the input row {text}", x
    yield from readings(inputs, own)


def _taken(values: Tensor, at: Tensor) -> Tensor:
    """Return the rows `at` [R] of values [S, I], NaN where there is none."""
    is_row = (at >= 0) & (at < len(values))
    return torch.where(is_row[:, None], values[at.clamp(0, len(values) - 1)], torch.nan)


def _fit(
    errors: StageErrors, right: Tensor, other: Tensor, is_known: Tensor
) -> tuple[float, str] | None:
    """Return what products of other inputs leave, and where they hold; None if they do not fit.

    is_known: [R] bool; of other rows nobody knows what was read, so that they may hold anything.
    """
    wrong = errors.is_wrong.any(dim=1)
    if int((wrong & is_known).sum()) < FEWEST:
        return None
    actual = torch.where(is_known[:, None], errors.actual, errors.expected)
    predicted = torch.where(is_known[:, None], errors.expected + other - right, errors.expected)
    return dataclasses.replace(errors, actual=actual).fitting(predicted)


def nearest_rows(errors: StageErrors, product: Product, right: Tensor) -> NamedCause | None:
    """Return the cause if each wrong row is the product of one other input row and no second."""
    wrong = errors.is_wrong.any(dim=1)
    inputs, own = product.inputs.values, product.rows.own
    usable = inputs.isfinite().all(dim=1).nonzero().flatten()
    if int(wrong.sum()) < FEWEST or not 2 < len(usable) <= MOST_INPUTS:
        return None
    if not bool(errors.actual.isfinite().all()):
        return None
    source = own.clone()
    for rows, w in product.parts:
        its = rows[wrong[rows]]
        if not len(its):
            continue
        factor = product.factor.expand(len(wrong), 1)[its]
        wanted = (errors.actual - errors.expected + right)[its] / factor
        products = inputs[usable] @ w.T
        near = torch.cdist(wanted, products).topk(2, dim=1, largest=False).indices
        second = (wanted - products[near[:, 1]]).abs() * factor.abs()
        if bool((second <= MARGIN * errors.noise[its]).all(dim=1).any()):
            return None  # too alike to be told apart
        source[its] = usable[near[:, 0]]
    fit = _fit(errors, right, product.of(inputs[source].nan_to_num()), torch.ones_like(wrong))
    if fit is None or bool((source == own)[wrong].any()):
        return None
    which = moved_text("row", own[wrong].tolist(), source[wrong].tolist())
    text = f"{errors.place} the products are those of other input rows: where the input should be "
    text += f"its row's, {which.replace('holds the values', 'has those')}"
    return NamedCause(name=NAME, cause=text, residual=fit[0])
