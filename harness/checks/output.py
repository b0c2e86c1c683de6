"""Judge an output per row and in total, with a tolerance computed from the case itself.

The tolerance of a row is twice the root of its expected variance (every declared rounding, the
noise of every product), plus the change if every code near a rounding tie flipped. It is never
absolute: it scales with the inputs. docs/bounds.md derives it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from harness.checks import element_and_bias
from harness.checks.large_columns import total_factor
from harness.checks.output_text import not_finite, row_numbers, rows_text, value_ranges
from harness.checks.row_errors import RowErrors, norm_of_all, ratio
from harness.record.result import Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.result import Answer

ROW_FACTOR = 2.0  # standard deviations of a row's distance: covers 6 sigma from 64 columns on
TOTAL_FACTOR = 1.5  # the same for all rows together, where chance averages out
SIGMAS = 6.0  # standard deviations of a sum of few squares that both factors cover at least
_CHUNK_ELEMENTS = {"cpu": 1 << 18}  # elements per chunk; other devices take all at once
METRICS = {
    "rel_rms": "relative rms error over all rows: norm of the error over norm of the reference",
    "worst_row": "largest relative rms error of a row",
    "one_minus_cosine": "1 - cosine between output and reference",
    "bound_used": "largest fraction of its tolerance used by a row, the total, an element or bias",
    "bad_rows": "rows whose error exceeds their tolerance",
    "rows": "rows judged",
}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Hold the verdict on one output. messages: what is wrong, worst first; empty if it passed."""

    verdict: Verdict
    messages: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


def tolerance_factors(variance: Tensor, columns: int) -> tuple[float, float]:
    """Return the factors of a row and of all rows together: larger where few values scatter more.

    variance: [T], of each row; a row far above the others counts as if it were the only one.
    """
    if _factor(max(columns, 1)) <= TOTAL_FACTOR:
        return ROW_FACTOR, TOTAL_FACTOR
    fractions = variance.double() / variance.double().sum()
    concentration = float(fractions.square().sum().nan_to_num(1.0).clamp(min=1e-12))
    effective_rows = 1 / concentration
    total_factor = _factor(max(columns, 1) * max(effective_rows, 1.0))
    return max(ROW_FACTOR, _factor(max(columns, 1))), max(TOTAL_FACTOR, total_factor)


def factors_of(answer: Answer) -> tuple[float, float]:
    """Return the factors of a row and of all rows together, larger where few columns are most."""
    each, every = tolerance_factors(answer.variance, answer.out.shape[1])
    return each, max(every, total_factor(answer.variance, answer.out))


def _factor(values: float) -> float:
    """Return the factor for a root mean square of so many values.

    Its relative standard deviation is 1 / sqrt(2 * values).
    """
    return 1 + SIGMAS / math.sqrt(2 * values)


def row_tolerance(answer: Answer, factor: float | None = None) -> Tensor:
    """Return [T], the largest norm of the error of each row of `answer.out`.

    factor: standard deviations; None: the row factor of `tolerance_factors`.
    """
    if factor is None:
        factor, _ = tolerance_factors(answer.variance, answer.out.shape[1])
    return factor * answer.variance.sqrt() + answer.flips.sqrt()


def judge(actual: Tensor, answer: Answer, factors: tuple[float, float] | None = None) -> Judgement:
    """Judge an output. actual: [T, K], any float dtype; answer: the reference of the same tokens.

    factors: of a row and of all rows together; None: `factors_of` these rows.
    Raises ValueError if shapes or devices differ, or if the reference itself is not finite.
    """
    _check(actual, answer)
    if actual.shape[0] == 0:
        return Judgement(verdict=Verdict.PASSED, metrics={"rows": 0.0})
    if factors is None:
        factors = factors_of(answer)
    rows = _rows(actual, answer, factors)
    if not rows.reference.isfinite().all() and not answer.out.isfinite().all():
        raise ValueError(
            "the reference holds NaN or Inf: the inputs are out of range, not the output"
        )
    if not rows.distance.isfinite().all():
        text = not_finite(actual.to(answer.out.dtype))
        if text is not None:
            metrics = {"rows": float(len(actual))}
            return Judgement(verdict=Verdict.FAILED, messages=(text,), metrics=metrics)
    return _verdict(actual, answer, rows)


def _rows(actual: Tensor, answer: Answer, factors: tuple[float, float]) -> RowErrors:
    """Measure all rows, in chunks: on a CPU, chunks that stay in its caches are much faster."""
    chunk_elements = _CHUNK_ELEMENTS.get(actual.device.type, actual.numel())
    chunk_rows, lengths = max(1, chunk_elements // max(actual.shape[1], 1)), []
    pairs = zip(torch.split(actual, chunk_rows), torch.split(answer.out, chunk_rows), strict=True)
    for values, expected in pairs:
        lengths.append(element_and_bias.measure(values.to(expected.dtype), expected, actual.dtype))
    distance, length, reference, peak = (
        torch.cat(columns) for columns in zip(*lengths, strict=True)
    )
    return RowErrors(
        distance=distance,
        actual=length,
        reference=reference,
        tolerance=row_tolerance(answer, factors[0]),
        total_tolerance=row_tolerance(answer, factors[1]),
        fine=element_and_bias.tolerance_used(answer, distance, length, reference, peak),
    )


def _check(actual: Tensor, answer: Answer) -> None:
    if actual.shape != answer.out.shape:
        shapes = f"{list(actual.shape)} and {list(answer.out.shape)}"
        raise ValueError(f"output and reference have shapes {shapes}; they must be the same [T, K]")
    if actual.device != answer.out.device:
        devices = f"output on {actual.device}, reference on {answer.out.device}"
        raise ValueError(f"{devices}: a layer must return its output on the device of its input")
    if not actual.dtype.is_floating_point:
        raise ValueError(f"an output of dtype {actual.dtype} cannot be judged; pass floats")


def _verdict(actual: Tensor, answer: Answer, rows: RowErrors) -> Judgement:
    metrics = _metrics(rows)
    exceeding = rows.exceeds.nonzero().flatten()
    messages = []
    if len(exceeding):
        _check_tolerance(rows.tolerance, exceeding)
        messages.append(rows_text(actual, answer.out, rows, exceeding))
    elif rows.total_used > 1:
        messages.append(
            "every row is within tolerance, but the total error is "
            f"{rows.total_used:.2f}x its limit"
        )
    else:
        messages += rows.fine.messages(actual, answer.out)
    if messages:
        messages.append(value_ranges(actual, answer.out, metrics))
        return Judgement(verdict=Verdict.FAILED, messages=tuple(messages), metrics=metrics)
    too_loose = (rows.reference <= rows.tolerance).nonzero().flatten()
    if len(too_loose):
        text = (
            f"an all-zero output would pass in {len(too_loose)} of {len(actual)} rows (tolerance "
            "exceeds the values), so this case proves nothing"
        )
        return Judgement(verdict=Verdict.VACUOUS, messages=(text,), metrics=metrics)
    return Judgement(verdict=Verdict.PASSED, metrics=metrics)


def _check_tolerance(tolerance: Tensor, exceeding: Tensor) -> None:
    """Raise ValueError if a tolerance is NaN: then the output is neither right nor wrong."""
    undefined = exceeding[tolerance[exceeding].isnan()]
    if len(undefined):
        rows = row_numbers(undefined.tolist())
        raise ValueError(
            f"the tolerance of {len(undefined)} rows {rows} is NaN, so they cannot be judged: a "
            "noise term of the reference overflowed; check the truth of the activation and the "
            "size of the inputs"
        )


def _metrics(rows: RowErrors) -> dict[str, float]:
    numbers = torch.stack([rows.relative_error.amax(), rows.used.amax(), rows.exceeds.sum()])
    worst_row, used, bad_rows = numbers.tolist()
    return {
        "rel_rms": float(ratio(norm_of_all(rows.distance), norm_of_all(rows.reference))),
        "worst_row": worst_row,
        "one_minus_cosine": _one_minus_cosine(rows),
        "bound_used": max(used, rows.total_used, rows.fine.worst_element_used, rows.fine.bias_used),
        "bad_rows": bad_rows,
        "rows": float(len(rows.distance)),
    }


def _one_minus_cosine(rows: RowErrors) -> float:
    """Compute it from three norms: a sum of products would lose it to rounding."""
    lengths = (rows.distance, rows.actual, rows.reference)
    distance, actual, reference = (float(norm_of_all(each)) for each in lengths)
    if actual * reference == 0:
        return 1.0
    return (distance**2 - (actual - reference) ** 2) / (2 * actual * reference)
