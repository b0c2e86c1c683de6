"""Find which elements of the first wrong stage are wrong: columns, blocks, signs, magnitudes.

It is said what all wrong elements have in common, and few right ones; not why. Which rows are wrong
is in `harness.diagnosis.stage_rows`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.conditions import Fact, splitting
from harness.diagnosis.stage_terms import handed_of
from harness.mutants.hypothesis import OF_DELIVERY
from harness.record.diagnosis import Pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

LUCK = 0.01  # probability that none of a wrong column's elements is beyond its tolerance
FEWEST = 8  # wrong elements that a condition on values is made of
WRONG_OF_SIGN, WRONG_OF_SIZE = 0.5, 0.9  # fraction of the elements of a condition that is wrong
FEW = 8  # columns that are listed
MOST = 0.8  # fraction of the elements that a condition on values may hold for
PERIODS = (2, 4, 8, 16, 32, 64, 128)
UNITS = (128, 64, 32, 16, 8)


@dataclass(frozen=True, kw_only=True)
class Valued:
    """Values [R, C] beside a stage's elements. name: what they are called."""

    name: str
    values: Tensor


def elements_of(evidence: Evidence) -> list[Pattern]:
    """Return the pattern of the wrong elements of the first wrong stage, if there is one."""
    errors = evidence.errors
    if errors is None or not errors.stage:  # of an output, `patterns` says it
        return []
    text = which_elements(errors, _inputs(evidence, errors))
    return [] if text is None else [Pattern(name="stage_elements", text=text)]


def which_elements(errors: StageErrors, inputs: tuple[Valued, ...] = ()) -> str | None:
    """Return a clause about all wrong elements, or None. inputs: from which the elements follow."""
    is_wrong = errors.is_wrong
    if not bool(is_wrong.any()):
        return None
    columns = wrong_columns(errors)
    where = [] if columns is None else [f"of {columns[0]}"]
    in_columns = torch.ones_like(is_wrong[0]) if columns is None else columns[1]
    part = is_wrong.any(dim=1)[:, None] & in_columns
    if errors.noun in OF_DELIVERY:  # of ids and counts no value is large or small
        of_value, same = None, ""
    else:
        known = (Valued(name="the expected value", values=errors.expected), *inputs)
        of_value, same = _of_values(errors, part, known), _contents(errors)
    where += [] if of_value is None else [of_value]
    if not (where or same):
        return None
    head = f"{errors.place} only {errors.noun} {' '.join(where)} are wrong"
    return (head if where else f"{errors.place}") + same


def wrong_columns(errors: StageErrors) -> tuple[str, Tensor] | None:
    """Return the wrong columns in words and [C] bool; None if all are, or nothing tells them."""
    rows = errors.is_wrong.any(dim=1)
    of_wrong = errors.is_wrong[rows]
    rate = of_wrong.double().mean(dim=0)
    usual = float(rate[rate > 0].median())
    is_changed = rate > 0
    luck = len(of_wrong) * math.log1p(-min(usual, 0.999))
    if bool(is_changed.all()) or luck > math.log(LUCK):
        return None
    conditions = splitting(_column_facts(errors), is_changed, ~is_changed)
    if conditions:
        return conditions[0].text, conditions[0].holds
    numbers = is_changed.nonzero().flatten().tolist()
    return (_column_facts(errors)[0].text(numbers), is_changed) if len(numbers) <= FEW else None


def _column_facts(errors: StageErrors) -> list[Fact]:
    """Return what is known of columns, [C] each."""
    count = errors.actual.shape[1]
    number = torch.arange(count, device=errors.actual.device)
    facts = [Fact(one="column", many="columns", values=number.double())]
    if errors.halves:
        half = (number // (count // 2)).double()
        facts.append(Fact(one="", many="", values=half, names=("the gate half", "the up half")))
    for unit in UNITS:
        if 2 * unit <= count:
            values = (number // unit).double()
            facts.append(Fact(one="column", many="columns", values=values, unit=unit))
    for period in PERIODS:
        if 2 * period <= count:
            name = f"each {period}th column, from"
            facts.append(Fact(one=name, many=name, values=(number % period).double()))
    return facts


def _of_values(errors: StageErrors, part: Tensor, known: tuple[Valued, ...]) -> str | None:
    """Return a condition on values that all wrong elements meet. part: [R, C] bool, the others."""
    is_wrong = errors.is_wrong
    if int(is_wrong.sum()) < FEWEST:
        return None
    fitting: list[tuple[str, float]] = []  # with the fraction that is wrong of those it holds for
    for valued in known:
        for text, holds, least in _conditions(valued, is_wrong):
            count = int((holds & part).sum())
            fraction = int(is_wrong.sum()) / count
            if count <= MOST * int(part.sum()) and fraction >= least:
                fitting.append((text, fraction))
    sharp = [text for text, fraction in fitting if fraction >= WRONG_OF_SIZE]
    return next(iter((*sharp, *(text for text, _ in fitting))), None)


def _conditions(valued: Valued, is_wrong: Tensor) -> Iterator[tuple[str, Tensor, float]]:
    """Yield conditions that hold for all wrong elements, and which part of theirs must be wrong."""
    values, name = valued.values, valued.name
    wrong = values[is_wrong]
    has_both = bool((values < 0).any() & (values > 0).any())
    if has_both and bool((wrong < 0).all()):
        yield f"where {name} is negative", values < 0, WRONG_OF_SIGN
    if has_both and bool((wrong > 0).all()):
        yield f"where {name} is positive", values > 0, WRONG_OF_SIGN
    low, high = float(wrong.min()), float(wrong.max())
    size = float(wrong.abs().min())
    yield f"where {name} is above {low:.3g}", values >= low, WRONG_OF_SIZE
    yield f"where {name} is below {high:.3g}", values <= high, WRONG_OF_SIZE
    yield f"where {name} is beyond +-{size:.3g}", values.abs() >= size, WRONG_OF_SIZE
    size = float(wrong.abs().max())
    yield f"where {name} is within +-{size:.3g}", values.abs() <= size, WRONG_OF_SIZE


def _contents(errors: StageErrors) -> str:
    """Return what all wrong elements hold, if that is one value."""
    held = errors.actual[errors.is_wrong]
    if len(held) < FEWEST:
        return ""
    if bool(held.isnan().all()):
        return ": all that are wrong are NaN: never written, or computed from NaN"
    first, right = float(held[0]), errors.expected[errors.is_wrong]
    is_one = bool((held.abs() == held[0].abs()).all())
    if not is_one or bool((right == right[0]).all()):  # of one right value that says nothing
        return ""
    sign = "" if bool((held == held[0]).all()) else "+-"
    value = f"{sign}{abs(first) if sign else first:.6g}"
    clamped = ", as if clamped there" if first and math.isfinite(first) else ""
    return f": all that are wrong are {value}{clamped}"


def _inputs(evidence: Evidence, errors: StageErrors) -> tuple[Valued, ...]:
    """Return the values from which the elements follow one by one: gate and up."""
    if errors.stage != "activation" or evidence.subject is None:
        return ()
    handed = handed_of(evidence)
    product = handed.rows("gemm1", errors.numbers)
    gate, up = evidence.subject.reference.activation.split(product)
    named = [Valued(name="gate", values=gate)]
    return tuple(named if up is None else [*named, Valued(name="up", values=up)])
