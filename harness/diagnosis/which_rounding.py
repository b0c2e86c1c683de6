"""Find a rounding that the first wrong stage should not have: of its values, or of its sums."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from harness.diagnosis import stage_terms
from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.terms import fitted, left_by
from harness.record.diagnosis import NamedCause
from moe.formats import FORMATS
from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from harness.diagnosis.terms import Terms
    from moe.formats.format import Format

NAME = "which_rounding"
NOUNS = ("elements", "router weights", "scales")
NARROW = ("bf16", "fp16")
OF_TERMS = ("e4m3", "bf16", "fp16")  # to which each term of a sum may be rounded
MOST_NAMED = 2  # roundings of sums that fit as well
LARGEST = 0.1  # error, as a part of the values, that is looked at: roundings are small
EXACT = 2.0**-20  # of the size of a sum: what it may differ from that of its terms by rounding
MANTISSA = 16  # bits of a float32 that bf16 lacks


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the causes if a narrower dtype, or truncation, gives the values of the stage."""
    errors = evidence.errors
    if errors is None or errors.noun not in NOUNS or not bool(errors.actual.isfinite().all()):
        return
    error = (errors.actual - errors.expected).norm() / errors.expected.norm().clamp(min=1e-38)
    if float(error) > LARGEST:
        return
    of_values = list(rounded_values(errors))
    yield from of_values
    if of_values or errors.noun == "scales":
        return
    for terms in stage_terms.terms_of(evidence):
        of_sums = [*rounded_terms(terms), *rounded_sums(terms)]
        if of_sums:  # of other terms of the same sum these are the same
            yield from sorted(of_sums, key=lambda cause: cause.residual)[:MOST_NAMED]
            return


def rounded_values(errors: StageErrors) -> Iterator[NamedCause]:
    """Yield each rounding, or cutting off, after which all values are what they should be.

    Of few values several may hold.
    """
    for text, rounded in ROUNDINGS.items():
        fit = errors.fitting(rounded(errors.expected))
        if fit is not None:
            noun = "values" if errors.noun == "elements" else errors.noun
            residual, where = fit
            cause = f"{errors.place} {'the' if where else 'all'} {noun} are {text}"
            yield NamedCause(name=NAME, cause=cause, residual=residual, where=where)


def rounded_terms(terms: Terms) -> Iterator[NamedCause]:
    """Yield each dtype to which all terms may be rounded before they are added."""
    if terms.noun == "products":
        return
    for dtype in OF_TERMS:
        grid = FORMATS["fp8_tensor"] if dtype == "e4m3" else dtype
        residual = fitted(terms, _of_rounded(terms, grid))
        if residual is not None and residual <= MAX_RESIDUAL:
            text = f"each of the {terms.values.shape[1]} {terms.noun} is rounded to {dtype}"
            cause = f"in stage {terms.stage} {text} before they are added"
            yield NamedCause(name=NAME, cause=cause, residual=residual)


def _of_rounded(terms: Terms, grid: str | Format) -> Tensor:
    """Return [R, C], the sum if each term is on a grid.

    Exact where the sum is of these terms alone: of terms with few bits it often lies half a step
    from two values of a grid, and goes to one or the other by its last bit.
    """
    values = terms.values.double()
    rest = terms.expected.double() - values.sum(dim=1)
    rest = torch.where(rest.abs() <= EXACT * values.abs().sum(dim=1), 0.0, rest)
    return (rest + on_grid(terms.values, grid).double().sum(dim=1)).float()


def rounded_sums(terms: Terms) -> Iterator[NamedCause]:
    """Yield each dtype to which the sum may be rounded after each term, and in which order."""
    for dtype, is_reversed in itertools.product(NARROW, (False, True)):
        order = terms.values.flip(1) if is_reversed else terms.values
        fits, residual = left_by(terms, _running(order, dtype))
        if bool(fits.all()) and residual <= MAX_RESIDUAL:
            which = ", from the last one on" if is_reversed else ""
            text = (
                f"the sum of {order.shape[1]} {terms.noun} is rounded to {dtype} after each{which}"
            )
            yield NamedCause(name=NAME, cause=f"in stage {terms.stage} {text}", residual=residual)


def _running(values: Tensor, dtype: str) -> Tensor:
    """Return the sum over P of values [R, P, C], rounded to the dtype after each term."""
    total = torch.zeros_like(values[:, 0])
    for number in range(values.shape[1]):
        total = on_grid(total + values[:, number], dtype)
    return total


def truncated(values: Tensor) -> Tensor:
    """Return float32 values without the bits that bf16 lacks: rounded toward zero."""
    bits = values.float().contiguous().view(torch.int32)
    return (bits >> MANTISSA << MANTISSA).view(torch.float32)


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "truncated to bf16, not rounded to the nearest": truncated,
    "rounded to bf16 more than they should be": lambda values: on_grid(values, "bf16"),
    "rounded to fp16 more than they should be": lambda values: on_grid(values, "fp16"),
    "rounded to e4m3 and should not be": lambda values: on_grid(
        values.clamp(-448, 448), FORMATS["fp8_tensor"]
    ),
    "rounded to e5m2 and should not be": lambda values: values.to(torch.float8_e5m2).float(),
}
