"""Judge the weighted sum over the slots of a token, and know the router weights that enter it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.stage_bound import Expected, compare, rounding
from moe.numerics import EITHER
from moe.reference import formats

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.record.diagnosis import StageFinding


def router_weights(handed: Handed, flat: Tensor) -> Tensor:
    """Return [r] float32 router weights of these flat rows, in the dtype that is declared."""
    weight = handed.stages["weights"].value.flatten()[flat].float()
    if handed.subject.reference.numerics.weight_dtype == "model":
        return formats.on_grid(weight, handed.subject.case.dtype)
    return weight


def unsure_weights(handed: Handed, flat: Tensor) -> Tensor:
    """Return [r], the error of the router weights if it is not known whether they are rounded."""
    weight = router_weights(handed, flat)
    if handed.subject.reference.numerics.weight_dtype != EITHER:
        return torch.zeros_like(weight)
    return (formats.on_grid(weight, handed.subject.case.dtype) - weight).abs()


def combine(handed: Handed, tokens: Tensor) -> StageFinding | None:
    """Compare the weighted sum over slots; tokens without an expert on this rank give zeros."""
    if not handed.has("gemm2") and not handed.has("weighted"):
        tokens = tokens[(handed.ids[tokens] < 0).all(dim=1)]  # expected zeros
    if len(tokens) == 0 or not handed.has("combine", "weights"):
        return None
    numerics, dtype = handed.subject.reference.numerics, handed.subject.case.dtype
    terms, noise = _weighted(handed, tokens)
    value, size = terms.sum(dim=1), terms.abs().sum(dim=1)
    times = handed.top_k if numerics.combine == "model" else 1
    tolerance = size * (handed.top_k * 2.0**-23) + noise.sum(dim=1)
    tolerance = tolerance + rounding(size if times > 1 else value.abs() + tolerance, dtype, times)
    if handed.exact:
        tolerance = torch.zeros_like(tolerance)
    actual = handed.stages["combine"].value[tokens]
    expected = Expected(value=value, tolerance=tolerance, terms=terms, over="slots")
    return compare("combine", actual, expected, {"rows": tokens})


def _weighted(handed: Handed, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted expert outputs and their allowed error, [s, k, K] float32 each.

    Experts of other ranks give zeros.
    """
    numerics, ids = handed.subject.reference.numerics, handed.ids[tokens]
    hidden = handed.stages["combine"].value.shape[1]
    terms = torch.zeros((*ids.shape, hidden), device=ids.device)
    noise = torch.zeros_like(terms)
    rows, slots = (ids >= 0).nonzero(as_tuple=True)
    if not len(rows):
        return terms, noise
    flat = tokens[rows] * handed.top_k + slots
    if handed.has("weighted") or numerics.weight_on != "output":
        terms[rows, slots] = handed.rows("weighted" if handed.has("weighted") else "gemm2", flat)
        return terms, noise
    y = handed.rows("gemm2", flat)
    terms[rows, slots] = router_weights(handed, flat)[:, None] * y
    noise[rows, slots] = unsure_weights(handed, flat)[:, None] * y.abs()
    if numerics.weighted == "model":
        noise += rounding(terms.abs() + noise, handed.subject.case.dtype)
    return terms, noise
