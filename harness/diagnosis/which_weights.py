"""Find how else the weights of a wrong product were rounded, stored or read.

A product is computed again from the codes, scales and zero points of each reading; one expert's
rows tell which may fit, and all rows must then follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.stages_products import operands, sharded
from harness.diagnosis.stage_terms import of_product
from harness.diagnosis.weight_codes import Codes
from harness.diagnosis.weight_readings import readings
from harness.record.diagnosis import NamedCause
from moe.reference import formats

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from moe.formats.format import Format

NAME = "which_weights"
WRONG_ROWS, RIGHT_ROWS = 64, 16  # at most
MOST_ELEMENTS = 2**21  # of a rank's weights, beyond which the readings would take seconds


@dataclass(frozen=True, kw_only=True)
class Multiplied:
    """What one expert's product multiplies. rows: [n] of the stage's, x: [n, I], codes: [C, I]."""

    rows: Tensor
    x: Tensor
    codes: Codes


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield how else the weights of a wrong product were read; at most one statement."""
    product = of_product(evidence, WRONG_ROWS, RIGHT_ROWS)
    if product is None:
        return
    errors, handed = product
    experts, fmt = multiplied(handed, errors), handed.subject.reference.weight_format
    if not experts:
        return
    cause = which_weights(errors, experts, None if fmt.block is None else fmt.block[1])
    if cause is not None:
        yield cause


def multiplied(handed: Handed, errors: StageErrors) -> list[Multiplied]:
    """Return what each expert's rows of a product multiply; empty if unknown, or too much."""
    parts = operands(handed, errors.stage, errors.numbers)
    if sum(w.numel() for _, _, w in parts) > MOST_ELEMENTS:
        return []
    return [
        Multiplied(rows=rows, x=x, codes=_codes_of(handed, errors, int(rows[0])))
        for rows, x, _ in parts
    ]


def _codes_of(handed: Handed, errors: StageErrors, row: int) -> Codes:
    """Return this rank's part of the first or second matrix of a row's expert."""
    reference, number = handed.subject.reference, 0 if errors.stage == "gemm1" else 1
    expert = int(handed.global_ids(handed.ids.flatten()[errors.numbers[row]]))
    both = [codes_of(w.float(), reference.weight_format) for w in reference.expert(expert)]
    names = ("ratio", "codes", "scale", "zero")
    parts = {n: sharded(handed, *(getattr(w, n) for w in both))[number] for n in names}
    return Codes(**parts, fmt=both[number].fmt)


def codes_of(w: Tensor, fmt: Format) -> Codes:
    """Return the codes of a matrix [O, I], as the reference makes them."""
    ones, zeros = torch.ones_like(w), torch.zeros_like(w)
    if fmt.grid == "model":
        return Codes(ratio=w, codes=w, scale=ones, zero=zeros)
    scale = formats.weight_scale(w, fmt).expand_as(w)
    zero = formats.zero_points(w, scale, fmt) if fmt.zero_point else zeros
    ratio = w / scale + zero
    clamped = ratio.clamp(fmt.lowest, fmt.top)
    codes = clamped.round() if fmt.zero_point else formats.on_grid(clamped, fmt)
    return Codes(ratio=ratio, codes=codes, scale=scale, zero=zero, fmt=fmt)


def which_weights(
    errors: StageErrors, given: Sequence[Multiplied], group: int | None
) -> NamedCause | None:
    """Return the cause, or None if no reading of all experts' weights explains all rows."""
    if not given or not bool(errors.actual.isfinite().all()):
        return None
    wrong = errors.is_wrong.any(dim=1)
    first = max(given, key=lambda one: int(wrong[one.rows].sum()))
    few, partial = errors.of_rows(first.rows), None
    for text, read in readings(group):
        change = _change(first, read(first.codes))
        if change is None or few.fitting(few.expected + change) is None:
            continue
        predicted = errors.expected.clone()
        for one in given:
            of_expert = _change(one, read(one.codes))
            if of_expert is not None:
                predicted[one.rows] += of_expert
        fit = errors.fitting(predicted)
        if fit is not None:
            residual, where = fit
            cause = f"{errors.place} the weights {text}"
            named = NamedCause(name=NAME, cause=cause, residual=residual, where=where)
            if not where:
                return named
            partial = partial or named  # another reading may explain the right rows, too
    return partial


def _change(one: Multiplied, other: Codes | None) -> Tensor | None:
    """Return [n, C], by how much the product changes with other codes; None for no other."""
    return None if other is None else one.x @ (other.values - one.codes.values).T
