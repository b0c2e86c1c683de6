"""Compare one stage's values, element by element, with what its recorded input gives.

An end-to-end tolerance must cover all noise of later stages. A stage that is recomputed from the
member's own previous stage has little noise to cover, so its tolerance is tight.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.record.diagnosis import StageFinding
from moe.reference.formats import step_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Tolerance of an element, in standard deviations of its noise. Six cover a billion normal values;
# two more cover sums whose terms differ much in size.
REACH = 8.0
MOST_NAMED = 16  # rows that a finding names


@dataclass(frozen=True, kw_only=True)
class OfAllRanks:
    """Hold what S rows of a stage should hold, [S, C] float32, in rank order.

    ranks, rows: [S] int64, whose row each is, and its number there. tokens: [S] int64, its number
    where the rows of all ranks are joined.
    """

    value: Tensor
    ranks: Tensor
    rows: Tensor
    tokens: Tensor

    @classmethod
    def joined(
        cls, value: Tensor, ranks: Sequence[int], rows: Sequence[Tensor], tokens: Tensor
    ) -> OfAllRanks:
        """Return them from the row numbers of each of these ranks."""
        counts = torch.tensor([len(of_rank) for of_rank in rows], device=value.device)
        of_ranks = torch.tensor(ranks, device=value.device).repeat_interleave(counts)
        return cls(value=value, ranks=of_ranks, rows=torch.cat(list(rows)), tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Hold expected values [R, C] float32 and the absolute tolerance of each, broadcastable.

    terms: [R, P, C] float32, what was summed to give the value, of a stage that is a sum; or None.
    over: what each of the P terms belongs to, "ranks", "slots" or "zero experts": the sum of all
    else, and that of the token's zero experts. of_all: what the rows of all
    ranks should hold, if that is known.
    """

    value: Tensor
    tolerance: Tensor
    terms: Tensor | None = None
    over: str = "ranks"
    of_all: OfAllRanks | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class WrongStage(StageFinding):
    """A stage finding with what was compared, for the diagnosis on the same rank.

    actual: [R, C] float32. labels: name -> [R], as `compare` takes them. noun: what the elements
    are called.
    """

    actual: Tensor
    expected: Expected
    labels: dict[str, Tensor]
    noun: str

    def among(self, of_all: OfAllRanks) -> WrongStage:
        """Return the finding with what the rows of all ranks should hold."""
        expected = dataclasses.replace(self.expected, of_all=of_all)
        return dataclasses.replace(self, expected=expected)

    def recorded(self) -> StageFinding:
        """Return the finding without its tensors."""
        names = (field.name for field in dataclasses.fields(StageFinding))
        return StageFinding(**{name: getattr(self, name) for name in names})


def rounding(size: Tensor, dtype: str, times: float = 1.0) -> Tensor:
    """Return the largest error of `times` roundings of values up to `size`; 0 for float32."""
    if dtype == "f32":
        return torch.zeros_like(size)
    return step_of(size * (1 + 2.0**-8), dtype) * (times / 2)


def compare(
    stage: str,
    actual: Tensor,
    expected: Expected,
    labels: dict[str, Tensor] | None = None,
    noun: str = "elements",
) -> WrongStage | None:
    """Return a finding if an element exceeds its tolerance; else None.

    Elements whose expected value is NaN or Inf are skipped: a previous stage made them so.
    actual: [R, C], any dtype. labels: name -> [R], further numbers of each row; the label "rows"
    replaces the row numbers. noun: what the elements are called in the text.
    Raises ValueError if the member recorded another shape.
    """
    if actual.shape != expected.value.shape:
        shapes = f"{list(actual.shape)}; it must be {list(expected.value.shape)}"
        raise ValueError(
            f"stage {stage} was recorded, in these rows, as {shapes} (see moe.intermediates)"
        )
    value = actual.to(expected.value.dtype)
    error = (value - expected.value).abs()
    departing = ~(error <= expected.tolerance) & expected.value.isfinite()  # NaN differs, too
    if not bool(departing.any()):
        return None
    rows = departing.any(dim=1).nonzero().flatten()
    detail = _detail(value, expected, departing, {} if labels is None else labels)
    count = int(departing.sum())
    amounts = f"{count} of {value.numel()} {noun} differ in {len(rows)} of {len(value)} rows"
    text = _text(detail, amounts)
    return WrongStage(
        stage=stage,
        text=text,
        bad=count,
        of=value.numel(),
        where=detail,
        actual=value,
        expected=expected,
        labels={} if labels is None else labels,
        noun=noun,
    )


def _detail(
    value: Tensor, expected: Expected, departing: Tensor, labels: dict[str, Tensor]
) -> dict[str, Any]:
    """Return `StageFinding.where`. value, departing: [R, C]; departing: bool, not all False."""
    rows = departing.any(dim=1).nonzero().flatten()
    first = int(rows[0])
    column = int(departing[first].nonzero()[0])
    tolerance = expected.tolerance.expand_as(expected.value)
    names = labels.get("rows", torch.arange(len(value), device=value.device))
    detail: dict[str, Any] = {
        "row": int(names[first]),
        "column": column,
        "value": float(value[first, column]),
        "expected": float(expected.value[first, column]),
        "allowed": float(tolerance[first, column]),
        "rows": names[rows[:MOST_NAMED]].tolist(),
        "columns": _ends(departing.any(dim=0)),
    }
    for name, label in labels.items():
        if name != "rows":
            detail[name] = torch.unique(label[rows])[:MOST_NAMED].tolist()
    return detail


def not_finite(
    stage: str, actual: Tensor, labels: dict[str, Tensor] | None = None
) -> StageFinding | None:
    """Return a finding about NaN and Inf, for a stage whose expected values are unknown."""
    finite_values = torch.where(actual.isfinite(), actual.float(), 0.0)
    finding = compare(
        stage, actual, Expected(value=finite_values, tolerance=finite_values.new_zeros(1)), labels
    )
    if finding is None:
        return None
    detail = {k: v for k, v in finding.where.items() if k not in ("expected", "allowed")}
    place = f"first at [{detail['row']}, {detail['column']}]: {detail['value']:.6g}"
    text = f"{finding.bad} of {finding.of} elements are NaN or Inf{_named(detail)}; {place}"
    return dataclasses.replace(finding, text=text, where=detail)


def _ends(columns: Tensor) -> list[int]:
    """Return the first and the last column that is marked. columns: [C] bool."""
    indices = columns.nonzero().flatten()
    return [int(indices[0]), int(indices[-1])]


def _named(detail: dict[str, Any]) -> str:
    return "".join(
        f", {name} {', '.join(map(str, detail[name]))}"
        for name in ("experts", "tokens", "ranks")
        if detail.get(name) and len(detail[name]) < MOST_NAMED
    )


def _text(detail: dict[str, Any], amounts: str) -> str:
    return (
        f"{amounts}{_named(detail)}; "
        f"first at [{detail['row']}, {detail['column']}]: {detail['value']:.6g}, "
        f"expected {detail['expected']:.6g} +- {detail['allowed']:.2g}"
    )
