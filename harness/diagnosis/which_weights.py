"""Find how else the weights of a wrong product were rounded, stored or read.

A product is computed again from the codes, scales and zero points of each reading; one expert's
rows tell which may fit, and all rows must then follow it.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.stages_products import operands, sharded
from harness.diagnosis.stage_terms import of_product
from harness.diagnosis.weight_codes import Codes, changed
from harness.diagnosis.weight_readings import readings
from harness.record.diagnosis import NamedCause
from moe.reference import formats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from moe.formats.format import Format

NAME = "which_weights"
MOST_NAMED = 2
WRONG_ROWS, RIGHT_ROWS = 64, 16  # at most
MOST_ELEMENTS = 2**21  # of a rank's weights, beyond which the readings would take seconds


@dataclass(frozen=True, kw_only=True)
class Unsplit:
    """A matrix that is split over ranks. codes: of all of it. part: gives this rank's of it.

    w: the matrix before it is quantized.
    """

    codes: Codes
    part: Callable[[Tensor], Tensor]
    w: Tensor


@dataclass(frozen=True, kw_only=True)
class Multiplied:
    """What one expert's product multiplies. rows: [n] of the stage's, x: [n, I], codes: [C, I].

    unsplit: the matrix of which the codes are this rank's part, if it is split.
    """

    rows: Tensor
    x: Tensor
    codes: Codes
    unsplit: Unsplit | None = None

    @property
    def cut_as_one(self) -> Codes | None:
        """Return the codes with scales that are cut from all rows, not from gate's and up's each.

        None unless rows of both halves are split.
        """
        if self.unsplit is None:
            return None
        scale = self.unsplit.codes.scale
        rows = torch.arange(len(scale), device=scale.device, dtype=scale.dtype)
        own = self.unsplit.part(rows[:, None].expand_as(scale))[:, 0]
        start, count = 2 * int(own[0]), len(own)
        if count == len(scale) or bool((own.diff() == 1).all()):
            return None
        return changed(self.codes, "scale", scale[start : start + count])

    @property
    def made_of_part(self) -> Codes | None:
        """Return the codes that are made of this rank's part alone; None if that is all."""
        if self.unsplit is None or self.codes.fmt is None:
            return None
        own = self.unsplit.part(self.unsplit.w)
        return codes_of(own.contiguous(), self.codes.fmt)

    def read(self, reading: Callable[[Codes], Codes | None], *, before: bool) -> Codes | None:
        """Return this rank's codes by a reading of its part, or of the matrix before it is split.

        None if the reading does not apply, or if there is nothing before.
        """
        if not before:
            return reading(self.codes)
        other = None if self.unsplit is None else reading(self.unsplit.codes)
        if self.unsplit is None or other is None:
            return None
        return of_parts(other, self.unsplit.part)


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield how else the weights of a wrong product were read; at most MOST_NAMED statements."""
    product = of_product(evidence, WRONG_ROWS, RIGHT_ROWS)
    if product is None:
        return
    errors, handed = product
    experts, fmt = multiplied(handed, errors), handed.subject.reference.weight_format
    if not experts:
        return
    yield from which_weights(errors, experts, None if fmt.block is None else fmt.block[1])


def multiplied(handed: Handed, errors: StageErrors) -> list[Multiplied]:
    """Return what each expert's rows of a product multiply; empty if unknown, or too much."""
    parts = operands(handed, errors.stage, errors.numbers)
    if sum(w.numel() for _, _, w in parts) > MOST_ELEMENTS:
        return []
    return [
        _multiplied(rows, x, _unsplit_of(handed, errors, int(rows[0])), w.shape)
        for rows, x, w in parts
    ]


def _multiplied(rows: Tensor, x: Tensor, unsplit: Unsplit, shape: torch.Size) -> Multiplied:
    is_split = unsplit.codes.codes.shape != shape
    codes = of_parts(unsplit.codes, unsplit.part)
    return Multiplied(rows=rows, x=x, codes=codes, unsplit=unsplit if is_split else None)


def of_parts(codes: Codes, part: Callable[[Tensor], Tensor]) -> Codes:
    """Return the codes of this rank's part of a matrix."""
    parts = {name: part(getattr(codes, name)) for name in ("ratio", "codes", "scale", "zero")}
    return Codes(**parts, fmt=codes.fmt)


def _unsplit_of(handed: Handed, errors: StageErrors, row: int) -> Unsplit:
    """Return the first or second matrix of a row's expert, before it is split over ranks."""
    reference, number = handed.subject.reference, 0 if errors.stage == "gemm1" else 1
    expert = int(handed.global_ids(handed.ids.flatten()[errors.numbers[row]]))
    both = [w.float() for w in reference.expert(expert)]

    def part(matrix: Tensor) -> Tensor:
        pair = (matrix, both[1]) if number == 0 else (both[0], matrix)
        return sharded(handed, *pair)[number]

    w = both[number]
    return Unsplit(codes=codes_of(w, reference.weight_format), part=part, w=w)


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
) -> list[NamedCause]:
    """Return at most MOST_NAMED readings of all experts' weights that explain all rows.

    If there is none, one that explains the wrong ones.
    """
    if not given or not bool(errors.actual.isfinite().all()):
        return []
    wrong = errors.is_wrong.any(dim=1)
    first = max(given, key=lambda one: int(wrong[one.rows].sum()))
    few, named = errors.of_rows(first.rows), list[NamedCause]()
    for text, read in _others(group):
        change = _change(first, read(first))
        if change is None or few.fitting(few.expected + change) is None:
            continue
        predicted = errors.expected.clone()
        for one in given:
            of_expert = _change(one, read(one))
            if of_expert is not None:
                predicted[one.rows] += of_expert
        fit = errors.fitting(predicted)
        if fit is not None:
            residual, where = fit
            cause = f"{errors.place} the weights {text}"
            named.append(NamedCause(name=NAME, cause=cause, residual=residual, where=where))
    full = [cause for cause in named if not cause.where]
    return full[:MOST_NAMED] or named[:1]


def _others(group: int | None) -> Iterator[tuple[str, Callable[[Multiplied], Codes | None]]]:
    """Yield in words what is done otherwise, and the codes that it gives of what is multiplied."""
    yield (
        "have scales that are cut over ranks as one run of rows, their codes as gate and up",
        lambda one: one.cut_as_one,
    )
    yield "are quantized after they were split over ranks", lambda one: one.made_of_part
    for (text, reading), before in itertools.product(readings(group), (False, True)):
        split = ", before they are split over ranks" if before else ""
        read = functools.partial(Multiplied.read, reading=reading, before=before)
        yield f"{text}{split}", read


def _change(one: Multiplied, other: Codes | None) -> Tensor | None:
    """Return [n, C], by how much the product changes with other codes; None for no other."""
    return None if other is None else one.x @ (other.values - one.codes.values).T
