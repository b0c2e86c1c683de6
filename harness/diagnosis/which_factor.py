"""Find by which factor values of the first wrong stage are off: all, or by row, column, block."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.conditions import splitting
from harness.diagnosis.element_groups import groups_of
from harness.diagnosis.fit import MAX_RESIDUAL
from harness.mutants.hypothesis import OF_DELIVERY
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.element_groups import Groups
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "which_factor"
SAME = 0.01  # relative distance at which two factors are the same
SURE = 4.0  # times the error of a factor of roundings, beyond which it is surely not 1
FEW = 8  # groups that are listed
WORDS = {-1.0: "have the wrong sign", 0.0: "are zero"}
LIKELY = 2.0**16  # ratio of the largest to the smallest factor of scales that are only wrong
SIMPLE = (0.0, -1.0, 2.0, 0.5, 3.0, 4.0, 0.25, 8.0, 0.125, 16.0, 0.0625, 1.5)


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the cause if every value of the stage is what it should be times a factor of its group.

    The fewest groups that explain all values are named.
    """
    errors = evidence.errors
    cause = None if errors is None else which_factor(errors)
    if cause is not None:
        yield cause


def which_factor(errors: StageErrors) -> NamedCause | None:
    """Return the cause, or None if no division into groups explains all values.

    None, too, of ids and counts: -1 is no 1 with the wrong sign.
    """
    if errors.noun in OF_DELIVERY or not bool(errors.actual.isfinite().all()):
        return None
    for groups in groups_of(errors):
        factor, error = _factors(errors, groups)
        of_element = factor[groups.of_element]
        residual = errors.left_by(of_element.float() * errors.expected, of_element)
        if residual is not None and residual <= MAX_RESIDUAL:
            is_changed = (factor - 1).abs() > SURE * error.clamp(min=1e-6)
            if bool(is_changed.any()):
                text = f"{errors.place} {_text(errors, groups, factor, error, is_changed)}"
                return NamedCause(name=NAME, cause=text, residual=residual)
    return None


def _factors(errors: StageErrors, groups: Groups) -> tuple[Tensor, Tensor]:
    """Return each group's factor by least squares, and the most that it is off; [G] float64."""
    weight = errors.tolerance.double().square().reciprocal()
    at, expected = groups.of_element.flatten(), errors.expected.double()
    zeros = torch.zeros(groups.shape[0] * groups.shape[1], dtype=torch.float64, device=at.device)
    size = zeros.index_add(0, at, (weight * expected.square()).flatten())
    product = zeros.index_add(0, at, (weight * expected * errors.actual.double()).flatten())
    is_known = size > 0
    factor = torch.where(is_known, product / size.clamp(min=1e-300), 1.0)
    return factor, torch.where(is_known, size.clamp(min=1e-300).rsqrt(), torch.inf)


def _text(
    errors: StageErrors, groups: Groups, factor: Tensor, error: Tensor, is_changed: Tensor
) -> str:
    """Return which values are off by which factor, as a clause."""
    values, what = factor[is_changed], _what(errors, groups, is_changed)
    middle, surest = float(values.median()), float(values[error[is_changed].argmin()])
    near = (s for s in SIMPLE if abs(middle - s) <= SAME * max(abs(s), SAME))
    for one in dict.fromkeys((*near, middle, surest)):
        if _is_one(errors, groups, is_changed, one):
            return f"{what} {_times(one)}"
    if errors.noun == "scales" and not _are_likely(values):
        return f"{what} {_no_scales(errors)}"
    ends = f"{float(values.min()):.3g} to {float(values.max()):.3g}"
    if bool((values > 0).all()) and _are_powers(values):
        return f"{what} are off by powers of two, another for each {groups.name}: {ends}"
    scale = "wrong scale" if bool((values >= 0).all()) else "wrong factor"
    return f"{what} are off by another factor for each {groups.name}, as by a {scale}: {ends}"


def _is_one(errors: StageErrors, groups: Groups, is_changed: Tensor, value: float) -> bool:
    """Tell whether one factor of all changed groups explains all values, too."""
    factor = torch.where(is_changed, value, 1.0)[groups.of_element].float()
    residual = errors.left_by(factor * errors.expected, factor)
    return residual is not None and residual <= MAX_RESIDUAL


def _are_likely(factors: Tensor) -> bool:
    """Tell whether factors may be those of wrong scales, which are above 0 and not far apart."""
    return bool((factors > 0).all()) and float(factors.max() / factors.min()) <= LIKELY


def _no_scales(errors: StageErrors) -> str:
    """Return what is held in place of scales, as the end of a clause."""
    held, right = errors.actual[errors.is_wrong], errors.expected[errors.is_wrong]
    ends = [f"{float(v.min()):.3g} to {float(v.max()):.3g}" for v in (held, right)]
    what = "are no scales, as of memory that holds something else"
    return f"{what}: {ends[0]}, expected {ends[1]}"


def _are_powers(values: Tensor) -> bool:
    logs = values.log2()
    powers = logs.round()
    return bool(((logs - powers).abs() <= SAME).all()) and bool((powers != 0).all())


def _times(value: float) -> str:
    if value in WORDS:
        return WORDS[value]
    power = math.log2(abs(value)) if value else 0.0
    exactly = f" (2^{round(power)})" if abs(power - round(power)) < 1e-3 and abs(power) > 1 else ""
    digits = 3 if abs(value - 1) > SAME else 5
    return f"are {value:.{digits}g} times what they should be{exactly}"


def _what(errors: StageErrors, groups: Groups, is_changed: Tensor) -> str:
    """Return the changed values in words, by a condition on their groups if one tells them."""
    noun = "values" if errors.noun == "elements" else errors.noun
    if bool(is_changed.all()):
        return f"all {noun}"
    conditions = splitting(groups.facts, is_changed, ~is_changed)
    if conditions:
        return f"the {noun} of {conditions[0].text}"
    count = int(is_changed.sum())
    numbering = next(
        (f for f in groups.facts if len(torch.unique(f.values)) == len(is_changed)), None
    )
    if numbering is not None and count <= FEW and not numbering.is_measured:
        numbers = [int(v) for v in numbering.values[is_changed].tolist()]
        return f"the {noun} of {numbering.text(numbers)}"
    return f"most {noun}" if 2 * count > len(is_changed) else f"some {noun}"
