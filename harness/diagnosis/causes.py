"""Which known mistake gives what was seen: each one's output is compared with the actual one.

A cause is named only when it fits: the wrong rows lie within the check's own bound of the output
that it predicts, and what it leaves of the difference is small. So two noisy neighbours of the
truth are never taken for one another.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from harness.checks.output import bound
from harness.diagnosis.patterns import of_columns
from harness.fixtures.layer_call import MOST_ROWS
from harness.formatting import numbers_text
from harness.mutants import NotApplicable
from harness.mutants.contributions import blamed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from harness.diagnosis.patterns import Wrong
    from harness.fixtures.layer_call import Call
    from harness.mutants import Hypothesis
    from harness.mutants.sample import Scene

LEAVES = 0.25  # of the wrong distance: the most that a named cause may leave unexplained
SLACK = 1.5  # times the bound: what is compared carries the prediction's noise as well
MOST_OF = 0.9  # of the rows that must fit: a row in doubt may not
SECONDS = 10.0  # for all hypotheses of all calls of a case; the cheap ones come first
MOVED_ROWS = 64  # wrong rows that are looked for among all of the call's


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One mistake that explains the output.

    residual: what it leaves of the wrong rows' distance, relative. where: empty, or that the
    mistake was made in the wrong rows or columns only, the right ones being right.
    """

    name: str
    cause: str
    residual: float
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Search:
    """causes: those that fit, best first. closest: the least that any left of the distance."""

    causes: tuple[Cause, ...] = ()
    tried: int = 0
    not_applicable: int = 0
    untried: int = 0  # time ran out
    closest: float | None = None
    faults: tuple[str, ...] = ()  # hypotheses that failed to compute


@dataclass
class _Found:
    causes: list[Cause] = field(default_factory=list)
    tried: int = 0
    not_applicable: int = 0
    untried: int = 0
    closest: float | None = None
    faults: list[str] = field(default_factory=list)

    def add(self, cause: Cause | None, residual: float) -> None:
        self.tried += 1
        self.closest = residual if self.closest is None else min(self.closest, residual)
        if cause is not None:
            self.causes.append(cause)


def search(
    scene: Scene,
    call: Call,
    wrong: Wrong,
    hypotheses: Iterable[Hypothesis],
    seconds: float,
) -> Search:
    """Where no row is wrong by itself, all of them are looked at. seconds: when to stop."""
    rows = wrong.rows if bool(wrong.rows.any()) else torch.ones_like(wrong.rows)
    columns = wrong.columns if of_columns(wrong) else None
    telling = telling_rows(scene, call, rows)
    found = _Found()
    end = time.monotonic() + seconds
    for hypothesis in sorted(hypotheses, key=lambda h: h.dear):
        if time.monotonic() > end:
            found.untried += 1
            continue
        _try(hypothesis, telling, (rows[telling.rows], columns), found)
    if all(cause.where for cause in found.causes):
        moved = _moved(call, rows)
        if moved is not None:
            found.add(moved, moved.residual)
    ranked = sorted(found.causes, key=lambda c: (len(c.where), c.residual))
    return Search(
        causes=tuple(ranked),
        tried=found.tried,
        not_applicable=found.not_applicable,
        untried=found.untried,
        closest=found.closest,
        faults=tuple(found.faults),
    )


def telling_rows(scene: Scene, call: Call, wrong: Tensor) -> Scene:
    """A scene of the same call whose first rows are wrong ones, with some right ones after.

    Wrong ones first, since costly hypotheses look at a few rows only.
    """
    right = _spread((~wrong).nonzero().flatten(), MOST_ROWS // 4)
    rows = torch.cat([_spread(wrong.nonzero().flatten(), MOST_ROWS - len(right)), right])
    x, routing = call.tokens.x[rows], call.output.routing
    ids, weights = routing.topk_ids[rows], routing.topk_weights[rows]
    keep = torch.arange(len(rows), device=rows.device)
    answer = scene.reference(x, ids, weights, keep=keep, like=call.answer)
    return dataclasses.replace(
        scene,
        rows=rows,
        x=x,
        logits=call.tokens.logits[rows],
        topk_ids=ids,
        topk_weights=weights,
        actual=call.output.out[rows],
        answer=dataclasses.replace(answer, amax1=call.answer.amax1, amax2=call.answer.amax2),
        memo={},
    )


def _spread(numbers: Tensor, most: int) -> Tensor:
    count = min(len(numbers), most)
    place = torch.linspace(0, max(len(numbers) - 1, 0), count, device=numbers.device)
    return numbers[place.round().to(torch.int64)]


def _try(
    hypothesis: Hypothesis, scene: Scene, wrong: tuple[Tensor, Tensor | None], found: _Found
) -> None:
    """wrong: [r] the scene's wrong rows, and [K] the wrong columns if they have a pattern."""
    blamed(scene)  # whoever was blamed before is forgotten
    try:
        predicted = hypothesis.compute(scene)
    except NotApplicable:
        found.not_applicable += 1
        return
    except Exception as fault:
        found.faults.append(f"{hypothesis.name}: {type(fault).__name__}: {fault}")
        return
    rows, columns = wrong[0][: len(predicted)], wrong[1]
    if not bool(rows.any()):
        found.not_applicable += 1  # it says nothing of the wrong rows
        return
    fit = _fit(scene, predicted, rows, None)
    if not fit.named and columns is not None:
        part = _fit(scene, predicted, rows, columns)
        fit = part if part.named else fit
    culprit = blamed(scene)
    text = f"{hypothesis.cause} ({culprit})" if culprit else hypothesis.cause
    cause = Cause(name=hypothesis.name, cause=text, residual=fit.residual, where=fit.where)
    found.add(cause if fit.named else None, fit.residual)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    residual: float
    named: bool
    where: str


def _fit(scene: Scene, predicted: Tensor, wrong: Tensor, columns: Tensor | None) -> _Fit:
    """How well the prediction [r', K] explains the wrong rows, in some columns or in all."""
    few = slice(0, len(predicted))
    part = slice(None) if columns is None else columns
    actual, expected = scene.actual[few, part].float(), scene.answer.out[few, part].float()
    hypothetical = predicted[:, part].to(scene.actual.dtype).float()
    unit = expected.square().mean(dim=1, keepdim=True).sqrt()
    left = _lengths(actual, hypothetical, unit)
    distance = _lengths(actual, expected, unit)
    ratio = hypothetical.nan_to_num().norm(dim=1) / expected.norm(dim=1).clamp(min=1e-38)
    within = left <= SLACK * bound(scene.answer)[few] * ratio.clamp(min=1, max=1e3)
    rest = float(left[wrong].norm() / distance[wrong].norm().clamp(min=1e-38))
    fits = float(within[wrong].float().mean()) >= MOST_OF
    everywhere = float(within.float().mean()) >= MOST_OF
    places = [] if everywhere else ["rows"]
    places += [] if columns is None else ["columns"]
    where = f"in the wrong {' and '.join(places)} only" if places else ""
    return _Fit(residual=rest, named=fits and rest <= LEAVES, where=where)


def _lengths(a: Tensor, b: Tensor, unit: Tensor) -> Tensor:
    """[r] distances of rows; where only one side is finite, a thousand times the row's rms.
    NaN on both sides is no difference: a mistake may well give NaN."""
    alike = (a == b) | (a.isnan() & b.isnan())
    off = torch.where(alike, 0.0, a - b)
    # In float64, since what lay in a buffer by chance may have a square beyond float32
    lengths: Tensor = torch.where(off.isfinite(), off, 1e3 * unit).double().norm(dim=1)
    return lengths


def _moved(call: Call, wrong: Tensor) -> Cause | None:
    """Wrong rows that hold other rows' answers; needs all of the call's rows, not the chosen.

    Zeros are such a row's too where the row that it should hold, by the others, is none of them.
    """
    expected = call.answer.out.float()
    if len(expected) < 2:
        return None
    numbers = _spread(wrong.nonzero().flatten(), MOVED_ROWS)
    actual = call.output.out[numbers].float()
    apart = torch.cdist(actual.nan_to_num(), expected)
    source = apart.argmin(dim=1)
    left = (actual - expected[source]).norm(dim=1)
    fits = (source != numbers) & (left <= SLACK * bound(call.answer)[source])
    empty = _beyond_the_ends(numbers, source, fits, len(expected)) & (actual == 0).all(dim=1)
    if float((fits | empty).float().mean()) < MOST_OF:
        return None
    distance = (actual - expected[numbers]).norm(dim=1)
    rest = float(left[fits].norm() / distance[fits].norm().clamp(min=1e-38))
    if rest > LEAVES:
        return None
    text = _moved_text(numbers[fits].tolist(), source[fits].tolist())
    if bool(empty.any()):
        text += f"; rows {numbers_text(numbers[empty].tolist())}, which have none such, are zeros"
    return Cause(name="rows_moved", cause=text, residual=rest)


def _beyond_the_ends(numbers: Tensor, source: Tensor, fits: Tensor, count: int) -> Tensor:
    """[r] bool, whose source lies before the first row or after the last: none, unless all rows
    that fit are moved by the same distance."""
    steps = set((numbers - source)[fits].tolist())
    if len(steps) != 1:
        return torch.zeros_like(fits)
    wanted = numbers - steps.pop()
    return torch.logical_or(wanted < 0, wanted >= count)


def _moved_text(rows: list[int], sources: list[int]) -> str:
    pairs = list(zip(rows, sources, strict=True))
    if len(rows) == 2 and rows == sources[::-1]:
        return f"rows {rows[0]} and {rows[1]} are swapped"
    steps = [row - source for row, source in pairs]
    step = max(set(steps), key=steps.count)
    if steps.count(step) >= MOST_OF * len(steps) and len(steps) > 1:
        side = "before" if step > 0 else "after"
        far = "" if abs(step) == 1 else f"{abs(step)} "
        return f"each wrong row holds the answer of the row {far}{side} it"
    if len(set(sources)) == 1 and len(rows) > 1:
        return f"rows {numbers_text(rows)} all hold the answer of row {sources[0]}"
    some = ", ".join(f"row {row} that of row {source}" for row, source in pairs[:3])
    return f"wrong rows hold other rows' answers: {some}"
