"""Whether an output is right: per row and as a whole, against a bound that the case itself gives.

The distance of each row from the reference may be twice the root of its expected variance (every
declared rounding, every product's noise), plus what the codes within reach of a tie would move
if all of them flipped. Nothing here is an absolute tolerance: scale the inputs and the bound
scales along. docs/bounds.md derives it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.result import Verdict
from harness.wording import numbers_text

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.layer import Answer

ROW_MARGIN = 2.0  # in standard deviations of a row's distance: covers 6 sigma from 64 columns on
ALL_MARGIN = 1.5  # the same over all rows together, where chance averages out
METRICS = {
    "rel_rms": "distance from the reference over the reference's length, all rows together",
    "worst_row": "the same of the worst row",
    "one_minus_cosine": "one less the cosine between output and reference",
    "bound_used": "the largest share of its bound that a row, or all of them, takes; 1 = at it",
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
    """Squared lengths per row, [T] float32: of the distance, the reference and the bound."""

    distance: Tensor
    reference: Tensor
    limit: Tensor
    margin: Tensor  # the bound of all rows together, per row


def bound(answer: Answer, margin: float = ROW_MARGIN) -> Tensor:
    """[T] how far from `answer.out` each row may be."""
    return margin * answer.variance.sqrt() + answer.flips.sqrt()


def judge(actual: Tensor, answer: Answer) -> Judgement:
    """actual: [T, K] any float dtype; answer: the reference for the same tokens.

    Raises ValueError where the two do not fit together or the reference itself is not finite.
    """
    _check(actual, answer)
    if actual.shape[0] == 0:
        return Judgement(verdict=Verdict.PASSED, metrics={"rows": 0.0})
    got, expected = actual.to(answer.out.dtype), answer.out
    broken = _not_finite(got)
    if broken:
        return Judgement(verdict=Verdict.FAILED, messages=(broken,), metrics={"rows": len(got)})
    rows = _Rows(
        distance=(got - expected).square().sum(dim=1),
        reference=expected.square().sum(dim=1),
        limit=bound(answer).square(),
        margin=bound(answer, ALL_MARGIN).square(),
    )
    return _verdict(got, expected, rows)


def _check(actual: Tensor, answer: Answer) -> None:
    if actual.shape != answer.out.shape:
        shapes = f"{list(actual.shape)} and {list(answer.out.shape)}"
        raise ValueError(f"output and reference have shapes {shapes}; they must be the same [T, K]")
    if not actual.dtype.is_floating_point:
        raise ValueError(f"an output of dtype {actual.dtype} cannot be judged; hand in floats")
    if not answer.out.isfinite().all():
        raise ValueError(
            "the reference holds NaN or Inf: the inputs are out of range, not the output"
        )


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


def _verdict(got: Tensor, expected: Tensor, rows: _Rows) -> Judgement:
    metrics = _metrics(got, expected, rows)
    bad = (rows.distance > rows.limit).nonzero().flatten()
    messages = []
    if len(bad):
        messages.append(_bad_rows(got, expected, rows, bad))
    elif rows.distance.sum() > rows.margin.sum():
        share = float((rows.distance.sum() / rows.margin.sum()).sqrt())
        messages.append(
            f"no row is beyond its bound, but all together are {share:.2f}x beyond theirs"
        )
    if messages:
        messages.append(_ranges_of_values(got, expected, metrics))
        return Judgement(verdict=Verdict.FAILED, messages=tuple(messages), metrics=metrics)
    blind = (rows.reference <= rows.limit).nonzero().flatten()
    if len(blind):
        text = f"zeros would pass in {len(blind)} of {len(got)} rows {_ranges(blind.tolist())}"
        return Judgement(verdict=Verdict.VACUOUS, messages=(text,), metrics=metrics)
    return Judgement(verdict=Verdict.PASSED, metrics=metrics)


def _metrics(got: Tensor, expected: Tensor, rows: _Rows) -> dict[str, float]:
    lengths = float(got.norm() * expected.norm())
    alike = float((got.double() * expected.double()).sum()) / lengths if lengths else 0.0
    used = (rows.distance / rows.limit.clamp(min=1e-38)).amax().sqrt()
    together = (rows.distance.sum() / rows.margin.sum().clamp(min=1e-38)).sqrt()
    return {
        "rel_rms": float((rows.distance.sum() / rows.reference.sum().clamp(min=1e-38)).sqrt()),
        "worst_row": float((rows.distance / rows.reference.clamp(min=1e-38)).amax().sqrt()),
        "one_minus_cosine": 1 - alike,
        "bound_used": float(max(used, together)),
        "bad_rows": float((rows.distance > rows.limit).sum()),
        "rows": float(len(got)),
    }


def _bad_rows(got: Tensor, expected: Tensor, rows: _Rows, bad: Tensor) -> str:
    excess = (rows.distance / rows.limit.clamp(min=1e-38)).sqrt()
    worst = int(excess.argmax())
    column = int((got[worst] - expected[worst]).abs().argmax())
    off = float((rows.distance[worst] / rows.reference[worst].clamp(min=1e-38)).sqrt())
    text = (
        f"{len(bad)} of {len(got)} rows wrong {_ranges(bad.tolist())}; worst row {worst}: off by "
        f"{off:.3g} of its length, {float(excess[worst]):.3g}x its bound; "
        f"element [{worst}, {column}] is {float(got[worst, column]):.6g}, "
        f"expected {float(expected[worst, column]):.6g}"
    )
    zero = (got == 0).all(dim=1) & (rows.reference > 0)
    if zero.any():
        text += f"; rows {_ranges(zero.nonzero().flatten().tolist())} are all zero"
    return text


def _ranges_of_values(got: Tensor, expected: Tensor, metrics: dict[str, float]) -> str:
    return (
        f"values {float(got.min()):.4g}..{float(got.max()):.4g}, expected "
        f"{float(expected.min()):.4g}..{float(expected.max()):.4g}; relative rms error "
        f"{metrics['rel_rms']:.4g}, 1 - cosine {metrics['one_minus_cosine']:.3g}"
    )


def _ranges(numbers: list[int]) -> str:
    return f"({numbers_text(numbers)})"
