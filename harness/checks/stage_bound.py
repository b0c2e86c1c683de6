"""One stage's values against what its own input makes them, element by element.

An end-to-end bound must leave room for everything that noise may do further on; a stage that is
fed with the member's own previous stage has little left to explain, so its bound is tight.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from moe.reference.formats import step_of

if TYPE_CHECKING:
    from torch import Tensor

# An element's own bound, in standard deviations of its noise. Six cover a billion normal values;
# the two more are for terms of a sum that are of very different sizes.
REACH = 8.0
MOST_NAMED = 16  # rows that a finding names


@dataclass(frozen=True, kw_only=True)
class StageFinding:
    """A stage that departs from what the stage before it gives.

    bad, of: elements that depart, of those that were looked at. where: row and column of the
    first, both values, the bound, the rows (at most MOST_NAMED) and columns that depart, and
    what else the stage knows: "experts" (global ids), "tokens" (gathered rows), "ranks".
    """

    stage: str
    text: str
    bad: int
    of: int
    where: dict[str, Any]

    def __str__(self) -> str:
        return f"stage {self.stage}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Right:
    """value: [R, C] float32. noise: broadcastable, how far each element may be from it."""

    value: Tensor
    noise: Tensor


def rounding(size: Tensor, dtype: str, times: float = 1.0) -> Tensor:
    """The most that so many roundings of values up to `size` may move; 0 in float32."""
    if dtype == "f32":
        return torch.zeros_like(size)
    return step_of(size * (1 + 2.0**-8), dtype) * (times / 2)


def compare(
    stage: str,
    actual: Tensor,
    right: Right,
    labels: dict[str, Tensor] | None = None,
    what: str = "elements",
) -> StageFinding | None:
    """None when every element is within its bound.

    Where the right value is NaN or Inf, the stage was given such, and the one before is to blame.
    actual: [R, C] any dtype. labels: name -> [R], what each row is called beside its number;
    the label "rows" replaces the row numbers. what: the elements' name for people.
    Raises ValueError where a member handed out another shape.
    """
    if actual.shape != right.value.shape:
        shapes = f"{list(actual.shape)}; it must be {list(right.value.shape)}"
        raise ValueError(
            f"stage {stage} was handed out, in these rows, as {shapes} (see moe.intermediates)"
        )
    value = actual.to(right.value.dtype)
    off = (value - right.value).abs()
    bad = ~(off <= right.noise) & right.value.isfinite()  # so that NaN is bad
    if not bool(bad.any()):
        return None
    rows = bad.any(dim=1).nonzero().flatten()
    first = int(rows[0])
    column = int(bad[first].nonzero()[0])
    noise = right.noise.expand_as(right.value)
    labels = {} if labels is None else labels
    names = labels.get("rows", torch.arange(len(value), device=value.device))
    where: dict[str, Any] = {
        "row": int(names[first]),
        "column": column,
        "value": float(value[first, column]),
        "expected": float(right.value[first, column]),
        "allowed": float(noise[first, column]),
        "rows": names[rows[:MOST_NAMED]].tolist(),
        "columns": _ends(bad.any(dim=0)),
    }
    for name, label in labels.items():
        if name != "rows":
            where[name] = torch.unique(label[rows])[:MOST_NAMED].tolist()
    count = int(bad.sum())
    shares = f"{count} of {value.numel()} {what} depart in {len(rows)} of {len(value)} rows"
    text = _text(where, shares)
    return StageFinding(stage=stage, text=text, bad=count, of=value.numel(), where=where)


def not_finite(
    stage: str, actual: Tensor, labels: dict[str, Tensor] | None = None
) -> StageFinding | None:
    """The elements that are NaN or Inf, for a stage of which no more is known."""
    none = torch.where(actual.isfinite(), actual.float(), 0.0)
    finding = compare(stage, actual, Right(value=none, noise=none.new_zeros(1)), labels)
    if finding is None:
        return None
    where = {k: v for k, v in finding.where.items() if k not in ("expected", "allowed")}
    place = f"first at [{where['row']}, {where['column']}]: {where['value']:.6g}"
    text = f"{finding.bad} of {finding.of} elements are NaN or Inf{_named(where)}; {place}"
    return dataclasses.replace(finding, text=text, where=where)


def _ends(columns: Tensor) -> list[int]:
    """The first and the last column that is bad."""
    which = columns.nonzero().flatten()
    return [int(which[0]), int(which[-1])]


def _named(where: dict[str, Any]) -> str:
    return "".join(
        f", {name} {', '.join(map(str, where[name]))}"
        for name in ("experts", "tokens", "ranks")
        if where.get(name) and len(where[name]) < MOST_NAMED
    )


def _text(where: dict[str, Any], shares: str) -> str:
    return (
        f"{shares}{_named(where)}; "
        f"first at [{where['row']}, {where['column']}]: {where['value']:.6g}, "
        f"expected {where['expected']:.6g} +- {where['allowed']:.2g}"
    )
