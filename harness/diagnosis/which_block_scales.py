"""Find blocks of activations whose codes are twice or half what they should be.

A scale that is a power of two, rounded by another rule, is twice or half as large. The codes then
follow the other way, but for those that are rounded again or that saturate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.diagnosis.which_codes import said_of_codes
from moe.reference.formats import step_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from harness.record.diagnosis import NamedCause
    from moe.formats.format import Format

NAME = "which_block_scales"
FEWEST = 2  # wrong blocks
FACTORS = {2.0: "twice", 0.5: "half"}  # of codes


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the cause if each wrong block has codes that are twice, or half, the right ones."""
    yield from said_of_codes(evidence, NAME, which_block_scales)


def which_block_scales(errors: StageErrors, fmt: Format) -> str | None:
    """Return what the wrong blocks have in common, as a clause, or None."""
    group = fmt.group
    if group is None or errors.actual.shape[1] % group or not bool(errors.actual.isfinite().all()):
        return None
    actual, expected, wrong = (
        x.reshape(len(x), -1, group) for x in (errors.actual, errors.expected, errors.is_wrong)
    )
    is_wrong = wrong.any(dim=2)
    fits = {factor: _holds_times(actual, expected, factor, fmt) & is_wrong for factor in FACTORS}
    explained = torch.stack(list(fits.values())).any(dim=0)
    if int(is_wrong.sum()) < FEWEST or not torch.equal(explained, is_wrong):
        return None
    counts = {factor: int(fit.sum()) for factor, fit in fits.items() if bool(fit.any())}
    clauses = [f"{FACTORS[f]} what they should be in {count}" for f, count in counts.items()]
    rule = ", as a power of two is by another rule of rounding" if fmt.scale_dtype == "e8m0" else ""
    return (
        f"codes are {' and '.join(clauses)} of {is_wrong.numel()} blocks of {group} columns, and "
        f"right in the others: the scale is off by 2{rule}"
    )


def _holds_times(actual: Tensor, expected: Tensor, factor: float, fmt: Format) -> Tensor:
    """Tell which blocks hold `factor` times the codes [R, B, group], rounded and clamped: [R, B].

    A code that was rounded already may be a step off, and one that saturated may be larger.
    """
    predicted = (factor * expected).clamp(fmt.lowest, fmt.top)
    step = step_of(torch.maximum(actual.abs(), predicted.abs()), fmt)
    is_near = (actual - predicted).abs() <= 1.01 * step
    is_saturated = (expected >= fmt.top) | (expected <= fmt.lowest)
    is_near |= is_saturated & (actual * expected > 0) & (actual.abs() >= predicted.abs() - step)
    return is_near.all(dim=2) & (actual != expected).any(dim=2)
