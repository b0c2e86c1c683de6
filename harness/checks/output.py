"""Whether an output is right: per row and as a whole, against a bound that the case itself gives.

The distance of each row from the reference may be twice the root of its expected variance (every
declared rounding, every product's noise), plus what the codes within reach of a tie would move
if all of them flipped. Nothing here is an absolute tolerance: scale the inputs and the bound
scales along. docs/bounds.md derives it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from harness.checks import element_and_bias
from harness.formatting import numbers_text
from harness.record.result import Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.result import Answer

ROW_MARGIN = 2.0  # in standard deviations of a row's distance: covers 6 sigma from 64 columns on
ALL_MARGIN = 1.5  # the same over all rows together, where chance averages out
SIGMAS = 6.0  # of a sum of few squares, to which both margins leave room at least
_TOGETHER = {"cpu": 1 << 18}  # elements at a time, where not all
METRICS = {
    "rel_rms": "distance from the reference over the reference's length, all rows together",
    "worst_row": "the same of the worst row",
    "one_minus_cosine": "one less the cosine between output and reference",
    "bound_used": "the largest share of its bound that a row, all of them, or an element takes",
    "bad_rows": "rows beyond their bound",
    "rows": "rows that were judged",
}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """messages say what is wrong, worst first; empty when passed."""

    verdict: Verdict
    messages: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Lengths per row, [T] float32: of the distance, both sides and the bound."""

    distance: Tensor
    actual: Tensor
    reference: Tensor
    limit: Tensor
    margin: Tensor  # the bound of all rows together, per row
    fine: element_and_bias.Finer

    @property
    def beyond(self) -> Tensor:
        """[T] bool; a bound that is NaN lets nothing pass."""
        return ~(self.distance <= self.limit)

    @property
    def used(self) -> Tensor:
        """[T] the share of its bound that each row takes."""
        return _over(self.distance, self.limit)

    @property
    def off(self) -> Tensor:
        """[T] the distance over the reference's length."""
        return _over(self.distance, self.reference)

    @property
    def together(self) -> float:
        """The share of their bound that all rows together take."""
        return float(_over(_length(self.distance), _length(self.margin)))


def _length(lengths: Tensor) -> Tensor:
    """[] float64: of all rows as one."""
    whole: Tensor = torch.linalg.vector_norm(lengths, dtype=torch.float64)
    return whole


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """Their ratio; 0 over 0 is 0, and anything else over 0 the largest number."""
    none, most = torch.zeros_like(part), torch.finfo(part.dtype).max
    ratio = torch.where(part > 0, part / whole, none)
    return torch.where(ratio == torch.inf, most, ratio)


def margins(variance: Tensor, columns: int) -> tuple[float, float]:
    """Of a row and of all together: the constants, but where so few values scatter more.

    variance: [T] of the rows; one that is far above the others counts as if it were alone.
    """
    if _for(max(columns, 1)) <= ALL_MARGIN:
        return ROW_MARGIN, ALL_MARGIN
    share = variance.double() / variance.double().sum()
    rows = 1 / float(share.square().sum().nan_to_num(1.0).clamp(min=1e-12))  # if all were alike
    every = _for(max(columns, 1) * max(rows, 1.0))
    return max(ROW_MARGIN, _for(max(columns, 1))), max(ALL_MARGIN, every)


def _for(values: float) -> float:
    """The root of a mean of so many squares scatters by 1 / sqrt(2 * values) of itself."""
    return 1 + SIGMAS / math.sqrt(2 * values)


def bound(answer: Answer, margin: float | None = None) -> Tensor:
    """[T] how far from `answer.out` each row may be."""
    if margin is None:
        margin, _ = margins(answer.variance, answer.out.shape[1])
    return margin * answer.variance.sqrt() + answer.flips.sqrt()


def judge(actual: Tensor, answer: Answer, allowed: tuple[float, float] | None = None) -> Judgement:
    """actual: [T, K] any float dtype; answer: the reference for the same tokens.

    allowed: margins of a row and of all together; None: `margins` of these rows.
    Raises ValueError where the two do not fit together or the reference itself is not finite.
    """
    _check(actual, answer)
    if actual.shape[0] == 0:
        return Judgement(verdict=Verdict.PASSED, metrics={"rows": 0.0})
    if allowed is None:
        allowed = margins(answer.variance, answer.out.shape[1])
    rows = _rows(actual, answer, allowed)
    if not rows.reference.isfinite().all() and not answer.out.isfinite().all():
        raise ValueError(
            "the reference holds NaN or Inf: the inputs are out of range, not the output"
        )
    broken = None if rows.distance.isfinite().all() else _not_finite(actual.to(answer.out.dtype))
    if broken:
        return Judgement(verdict=Verdict.FAILED, messages=(broken,), metrics={"rows": len(actual)})
    return _verdict(actual, answer, rows)


def _rows(actual: Tensor, answer: Answer, allowed: tuple[float, float]) -> _Rows:
    """Part by part: on the CPU most of the time would go into leaving its caches."""
    together = _TOGETHER.get(actual.device.type, actual.numel())
    part, lengths = max(1, together // max(actual.shape[1], 1)), []
    pairs = zip(torch.split(actual, part), torch.split(answer.out, part), strict=True)
    for got, expected in pairs:
        lengths.append(element_and_bias.measure(got.to(expected.dtype), expected, actual.dtype))
    distance, length, reference, peak = (torch.cat(some) for some in zip(*lengths, strict=True))
    return _Rows(
        distance=distance,
        actual=length,
        reference=reference,
        limit=bound(answer, allowed[0]),
        margin=bound(answer, allowed[1]),
        fine=element_and_bias.look(answer, distance, length, reference, peak),
    )


def _check(actual: Tensor, answer: Answer) -> None:
    if actual.shape != answer.out.shape:
        shapes = f"{list(actual.shape)} and {list(answer.out.shape)}"
        raise ValueError(f"output and reference have shapes {shapes}; they must be the same [T, K]")
    if actual.device != answer.out.device:
        devices = f"output on {actual.device}, reference on {answer.out.device}"
        raise ValueError(f"{devices}: a layer must leave its output where its input was")
    if not actual.dtype.is_floating_point:
        raise ValueError(f"an output of dtype {actual.dtype} cannot be judged; hand in floats")


def _not_finite(got: Tensor) -> str | None:
    """Says where NaN and Inf are; whole rows of NaN were most likely never written."""
    bad = ~got.isfinite()
    if not bad.any():
        return None
    rows = bad.any(dim=1).nonzero().flatten()
    unwritten = got.isnan().all(dim=1)
    first_row = int(rows[0])
    first = int(bad[first_row].nonzero()[0])
    text = (
        f"{int(got.isnan().sum())} NaN and {int(got.isinf().sum())} Inf of {got.numel()} elements, "
        f"in {len(rows)} of {len(got)} rows {_ranges(rows.tolist())}, "
        f"first at [{first_row}, {first}]"
    )
    if unwritten.any():
        which = _ranges(unwritten.nonzero().flatten().tolist())
        text += (
            f"; rows {which} are all NaN: never written, or poisoned by what they were made from"
        )
    return text


def _verdict(actual: Tensor, answer: Answer, rows: _Rows) -> Judgement:
    metrics = _metrics(rows)
    bad = rows.beyond.nonzero().flatten()
    messages = []
    if len(bad):
        messages.append(_bad_rows(actual, answer.out, rows, bad))
    elif rows.together > 1:
        messages.append(
            f"no row is beyond its bound, but all together are {rows.together:.2f}x beyond theirs"
        )
    else:
        messages += rows.fine.complaints(actual, answer.out)
    if messages:
        messages.append(_ranges_of_values(actual, answer.out, metrics))
        return Judgement(verdict=Verdict.FAILED, messages=tuple(messages), metrics=metrics)
    blind = (rows.reference <= rows.limit).nonzero().flatten()
    if len(blind):
        text = f"zeros would pass in {len(blind)} of {len(actual)} rows {_ranges(blind.tolist())}"
        return Judgement(verdict=Verdict.VACUOUS, messages=(text,), metrics=metrics)
    return Judgement(verdict=Verdict.PASSED, metrics=metrics)


def _metrics(rows: _Rows) -> dict[str, float]:
    numbers = torch.stack([rows.off.amax(), rows.used.amax(), rows.beyond.sum()])
    worst_row, used, bad_rows = numbers.tolist()
    return {
        "rel_rms": float(_over(_length(rows.distance), _length(rows.reference))),
        "worst_row": worst_row,
        "one_minus_cosine": _one_minus_cosine(rows),
        "bound_used": max(used, rows.together, rows.fine.elements, rows.fine.direction),
        "bad_rows": bad_rows,
        "rows": float(len(rows.distance)),
    }


def _one_minus_cosine(rows: _Rows) -> float:
    """From three lengths; no sum of products, whose rounding would drown it."""
    sides = (rows.distance, rows.actual, rows.reference)
    distance, actual, reference = (float(_length(side)) for side in sides)
    if actual * reference == 0:
        return 1.0
    return (distance**2 - (actual - reference) ** 2) / (2 * actual * reference)


def _bad_rows(actual: Tensor, expected: Tensor, rows: _Rows, bad: Tensor) -> str:
    worst = int(rows.used.argmax())
    got = actual[worst].to(expected.dtype)
    column = int((got - expected[worst]).abs().argmax())
    text = (
        f"{len(bad)} of {len(actual)} rows wrong {_ranges(bad.tolist())}; worst row {worst}: "
        f"{_how_far(rows, worst)}; element [{worst}, {column}] is {float(got[column]):.6g}, "
        f"expected {float(expected[worst, column]):.6g}"
    )
    zero = (rows.actual == 0) & (rows.reference > 0)
    if zero.any():
        text += f"; rows {_ranges(zero.nonzero().flatten().tolist())} are all zero"
    return text


def _how_far(rows: _Rows, row: int) -> str:
    if float(rows.reference[row]) == 0:
        return "not the zeros that are expected"
    off = f"off by {float(rows.off[row]):.3g} of its length"
    if float(rows.limit[row]) == 0:
        return f"{off}, where nothing is allowed"
    return f"{off}, {float(rows.used[row]):.3g}x its bound"


def _ranges_of_values(got: Tensor, expected: Tensor, metrics: dict[str, float]) -> str:
    return (
        f"values {float(got.min()):.4g}..{float(got.max()):.4g}, expected "
        f"{float(expected.min()):.4g}..{float(expected.max()):.4g}; relative rms error "
        f"{metrics['rel_rms']:.4g}, 1 - cosine {metrics['one_minus_cosine']:.3g}"
    )


def _ranges(numbers: list[int]) -> str:
    return f"({numbers_text(numbers)})"
