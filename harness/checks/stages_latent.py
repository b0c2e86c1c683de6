"""Judge the projections of a latent layer: each from the recorded stage before it.

Both are judged on at most 16 rows of this rank. Not collective.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.stage_bound import REACH, Expected, compare, rounding
from moe.reference.latent import LATENT
from moe.reference.sum_noise import of_each_sum

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.record.diagnosis import StageFinding


def check(handed: Handed) -> list[StageFinding | None]:
    """Return findings on `latent` and `restored`; [] if the layer has no projections."""
    truth = handed.subject.reference.latent
    rows = handed.sampled(handed.rank)
    if truth is None or len(rows) == 0:
        return []
    findings = []
    if handed.has("latent"):
        x = handed.call.tokens.x[rows].float()
        findings.append(_compared(handed, "latent", x, truth.down, rows))
    if handed.has("finalize", "restored"):
        sums = handed.stages["finalize"].value[rows].float()
        findings.append(_compared(handed, "restored", sums, truth.up, rows))
    return findings


def last(handed: Handed) -> str:
    """Return the stage that holds what the routed experts add to this rank's output."""
    return "restored" if handed.subject.case.latent else "finalize"


def sent(handed: Handed) -> Tensor:
    """Return this rank's recorded projections [T, L], of undefined rows zeros if scales span rows.

    Raises ValueError for another shape: ranks would wait for each other's rows.
    """
    value, tokens = handed.stages["latent"].value, handed.call.tokens
    shape = [len(tokens.x), handed.subject.case.latent]
    if list(value.shape) != shape:
        raise ValueError(f"stage latent was handed out as {list(value.shape)}; it must be {shape}")
    if tokens.is_undefined is None or not handed.subject.reference.act_format.spans_rows:
        return value
    return value.masked_fill(tokens.is_undefined[:, None], 0.0)


def _compared(
    handed: Handed, stage: str, x: Tensor, w: Tensor, rows: Tensor
) -> StageFinding | None:
    """Compare a stage with x [r, I] @ w [O, I].T, rounded to the layer's dtype."""
    w = w.float()
    value, tolerance = x @ w.T, REACH * of_each_sum(x, w, LATENT)
    tolerance = tolerance + rounding(value.abs() + tolerance, handed.subject.case.dtype)
    if handed.exact:
        tolerance = torch.zeros_like(tolerance)
    actual = handed.stages[stage].value[rows]
    return compare(stage, actual, Expected(value=value, tolerance=tolerance), {"rows": rows})
