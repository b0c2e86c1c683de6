"""Find the known mistake that gives the actual output: compare each one's output with it.

A cause is named only if it fits: the wrong rows are within the checks' tolerance of the predicted
output, and the unexplained part of the error is small. So two outputs that are both close to the
reference are never taken for one another.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from harness.checks.output import row_tolerance
from harness.diagnosis.patterns import of_columns
from harness.fixtures.layer_call import MAX_ROWS
from harness.formatting import numbers_text
from harness.mutants import NotApplicable
from harness.mutants.contributions import blamed
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from harness.diagnosis.patterns import Mismatch
    from harness.fixtures.layer_call import Call
    from harness.mutants import Hypothesis
    from harness.mutants.sample import Scene

MAX_RESIDUAL = 0.25  # largest unexplained fraction of the error for a cause to be named
TOLERANCE_FACTOR = 1.5  # times the row tolerance: the prediction is noisy, too
MIN_FIT = 0.9  # smallest fraction of wrong rows that fit: some rows are ambiguous
SECONDS = 10.0  # for all hypotheses of all calls of a case; the cheap ones come first
MOVED_ROWS = 64  # wrong rows that are compared with all rows of the call


@dataclass(frozen=True, kw_only=True)
class Search:
    """The result of a search. causes: those that fit, best first. closest: smallest residual."""

    causes: tuple[NamedCause, ...] = ()
    tried: int = 0
    not_applicable: int = 0
    untried: int = 0  # time ran out
    closest: float | None = None
    faults: tuple[str, ...] = ()  # hypotheses that failed to compute


@dataclass
class _Progress:
    causes: list[NamedCause] = field(default_factory=list)
    tried: int = 0
    not_applicable: int = 0
    untried: int = 0
    closest: float | None = None
    faults: list[str] = field(default_factory=list)

    def add(self, cause: NamedCause | None, residual: float) -> None:
        self.tried += 1
        self.closest = residual if self.closest is None else min(self.closest, residual)
        if cause is not None:
            self.causes.append(cause)


def search(
    scene: Scene,
    call: Call,
    mismatch: Mismatch,
    hypotheses: Iterable[Hypothesis],
    seconds: float,
) -> Search:
    """Try hypotheses, cheap ones first, until `seconds` have passed.

    If no single row is wrong, all rows are treated as wrong.
    """
    rows = mismatch.rows if bool(mismatch.rows.any()) else torch.ones_like(mismatch.rows)
    columns = mismatch.columns if of_columns(mismatch) else None
    sampled = sample_rows(scene, call, rows)
    progress = _Progress()
    end = time.monotonic() + seconds
    for hypothesis in sorted(hypotheses, key=lambda h: h.costly):
        if time.monotonic() > end:
            progress.untried += 1
            continue
        _try(hypothesis, sampled, (rows[sampled.rows], columns), progress)
    if all(cause.where for cause in progress.causes):
        moved = _moved(call, rows)
        if moved is not None:
            progress.add(moved, moved.residual)
    ranked = sorted(progress.causes, key=lambda c: (len(c.where), c.residual))
    return Search(
        causes=tuple(ranked),
        tried=progress.tried,
        not_applicable=progress.not_applicable,
        untried=progress.untried,
        closest=progress.closest,
        faults=tuple(progress.faults),
    )


def sample_rows(scene: Scene, call: Call, is_wrong: Tensor) -> Scene:
    """Return a scene of wrong rows of the call, followed by some correct ones.

    Wrong rows come first, since costly hypotheses use only the first few. is_wrong: [T] bool.
    """
    correct_rows = _spread((~is_wrong).nonzero().flatten(), MAX_ROWS // 4)
    wrong_rows = _spread(is_wrong.nonzero().flatten(), MAX_ROWS - len(correct_rows))
    rows = torch.cat([wrong_rows, correct_rows])
    x, routing = call.tokens.x[rows], call.output.routing
    ids, weights = routing.topk_ids[rows], routing.topk_weights[rows]
    keep = torch.arange(len(rows), device=rows.device)
    answer = scene.reference(x, ids, weights, keep=keep, like=call.answer)
    if scene.candidates is not None and scene.candidates.several:
        ball = scene.reference.with_numerics(scene.candidates.ball)
        wide = ball(x, ids, weights, like=call.answer)  # the layer's roundings are not known
        answer = dataclasses.replace(answer, variance=wide.variance, flips=wide.flips)
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


def _spread(numbers: Tensor, limit: int) -> Tensor:
    count = min(len(numbers), limit)
    place = torch.linspace(0, max(len(numbers) - 1, 0), count, device=numbers.device)
    return numbers[place.round().to(torch.int64)]


def _try(
    hypothesis: Hypothesis, scene: Scene, mask: tuple[Tensor, Tensor | None], progress: _Progress
) -> None:
    """Add one hypothesis to the progress. mask: wrong rows [r], and wrong columns [K] or None."""
    blamed(scene)  # forget the previous culprit
    try:
        predicted = hypothesis.compute(scene)
    except NotApplicable:
        progress.not_applicable += 1
        return
    except Exception as error:
        progress.faults.append(f"{hypothesis.name}: {type(error).__name__}: {error}")
        return
    rows, columns = mask[0][: len(predicted)], mask[1]
    if not bool(rows.any()):
        progress.not_applicable += 1  # it predicts no wrong row
        return
    fit = _best_fit(scene, predicted, rows, columns)
    culprit = blamed(scene)
    text = f"{hypothesis.cause} ({culprit})" if culprit else hypothesis.cause
    cause = NamedCause(name=hypothesis.name, cause=text, residual=fit.residual, where=fit.where)
    progress.add(cause if fit.named else None, fit.residual)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    residual: float
    named: bool
    where: str


def _best_fit(scene: Scene, predicted: Tensor, is_wrong: Tensor, columns: Tensor | None) -> _Fit:
    """Return the fit in all columns, or in the wrong columns if only that one is named."""
    fit = _fit(scene, predicted, is_wrong, None)
    if fit.named or columns is None:
        return fit
    partial = _fit(scene, predicted, is_wrong, columns)
    return partial if partial.named else fit


def _fit(scene: Scene, predicted: Tensor, is_wrong: Tensor, columns: Tensor | None) -> _Fit:
    """Measure how well the prediction [r', K] explains the wrong rows, in the columns or in all."""
    rows = slice(0, len(predicted))
    part = slice(None) if columns is None else columns
    actual, expected = scene.actual[rows, part].float(), scene.answer.out[rows, part].float()
    hypothetical = predicted[:, part].to(scene.actual.dtype).float()
    unit = expected.square().mean(dim=1, keepdim=True).sqrt()
    remaining = _lengths(actual, hypothetical, unit)
    distance = _lengths(actual, expected, unit)
    ratio = hypothetical.nan_to_num().norm(dim=1) / expected.norm(dim=1).clamp(min=1e-38)
    tolerance = TOLERANCE_FACTOR * row_tolerance(scene.answer)[rows] * ratio.clamp(min=1, max=1e3)
    within = remaining <= tolerance
    residual = float(remaining[is_wrong].norm() / distance[is_wrong].norm().clamp(min=1e-38))
    fits = float(within[is_wrong].float().mean()) >= MIN_FIT
    fits_all = float(within.float().mean()) >= MIN_FIT
    places = [] if fits_all else ["rows"]
    places += [] if columns is None else ["columns"]
    place = f"in the wrong {' and '.join(places)} only" if places else ""
    return _Fit(residual=residual, named=fits and residual <= MAX_RESIDUAL, where=place)


def _lengths(a: Tensor, b: Tensor, unit: Tensor) -> Tensor:
    """Return [r], the norm of a - b in each row.

    An element that is finite on one side only counts as a thousand times the row's rms `unit`.
    NaN on both sides is no difference: a mistake may give NaN.
    """
    is_equal = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(is_equal, 0.0, a - b)
    # In float64: uninitialised memory may hold values whose squares overflow float32
    finite = torch.where(difference.isfinite(), difference, 1e3 * unit)
    lengths: Tensor = finite.double().norm(dim=1)
    return lengths


def _moved(call: Call, is_wrong: Tensor) -> NamedCause | None:
    """Return a cause if the wrong rows hold other rows' outputs; searches all rows of the call.

    A row of zeros fits, too, if the distance by which the others moved leads beyond the ends.
    """
    expected = call.answer.out.float()
    if len(expected) < 2:
        return None
    numbers = _spread(is_wrong.nonzero().flatten(), MOVED_ROWS)
    actual = call.output.out[numbers].float()
    distances = torch.cdist(actual.nan_to_num(), expected)
    source = distances.argmin(dim=1)
    remaining = (actual - expected[source]).norm(dim=1)
    tolerance = TOLERANCE_FACTOR * row_tolerance(call.answer)[source]
    fits = (source != numbers) & (remaining <= tolerance)
    zero_rows = _beyond_the_ends(numbers, source, fits, len(expected)) & (actual == 0).all(dim=1)
    if float((fits | zero_rows).float().mean()) < MIN_FIT:
        return None
    distance = (actual - expected[numbers]).norm(dim=1)
    residual = float(remaining[fits].norm() / distance[fits].norm().clamp(min=1e-38))
    if residual > MAX_RESIDUAL:
        return None
    text = _moved_text(numbers[fits].tolist(), source[fits].tolist())
    if bool(zero_rows.any()):
        text += (
            f"; rows {numbers_text(numbers[zero_rows].tolist())}, which have no such row, are zeros"
        )
    return NamedCause(name="rows_moved", cause=text, residual=residual)


def _beyond_the_ends(numbers: Tensor, source: Tensor, fits: Tensor, count: int) -> Tensor:
    """Return [r] bool: rows whose source would lie before the first row or after the last one.

    All False unless all rows that fit moved by the same distance.
    """
    steps = set((numbers - source)[fits].tolist())
    if len(steps) != 1:
        return torch.zeros_like(fits)
    expected_source = numbers - steps.pop()
    return torch.logical_or(expected_source < 0, expected_source >= count)


def _moved_text(rows: list[int], sources: list[int]) -> str:
    pairs = list(zip(rows, sources, strict=True))
    if len(rows) == 2 and rows == sources[::-1]:
        return f"rows {rows[0]} and {rows[1]} are swapped"
    steps = [row - source for row, source in pairs]
    step = max(set(steps), key=steps.count)
    if steps.count(step) >= MIN_FIT * len(steps) and len(steps) > 1:
        side = "before" if step > 0 else "after"
        gap = "" if abs(step) == 1 else f"{abs(step)} "
        return f"each wrong row holds the output of the row {gap}{side} it"
    if len(set(sources)) == 1 and len(rows) > 1:
        return f"rows {numbers_text(rows)} all hold the output of row {sources[0]}"
    examples = ", ".join(f"row {row} that of row {source}" for row, source in pairs[:3])
    return f"wrong rows hold other rows' outputs: {examples}"
