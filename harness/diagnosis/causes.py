"""Find the known mistake that gives the actual output: compare each one's output with it.

A cause is named only if it fits (see `harness.diagnosis.fit`). On a device the number of operations
is what a search costs. So a mistake inside the experts is computed for one wrong row first: of few
rows nearly all must fit, and most mistakes end there. Predictions are compared all together. What
fits a few rows is tested on more of the call: few rows are alike under several mistakes.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.fit import fits_of
from harness.diagnosis.wrong_rows import clear_first
from harness.mutants import FEW, NotApplicable
from harness.mutants.contributions import blamed
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.fit import Fit
    from harness.mutants import Hypothesis
    from harness.mutants.sample import Scene

SECONDS = 1.0  # for all hypotheses of all calls of a case, at least
TIMES_THE_CASE = 2.0  # the same, as a multiple of the time that the case took until then


def budget(case_seconds: float) -> float:
    """Return the seconds that a search may take in a case that took `case_seconds`."""
    return max(SECONDS, TIMES_THE_CASE * case_seconds)


@dataclass(frozen=True, kw_only=True)
class Search:
    """The result of a search. causes: those that fit, best first. closest: smallest residual."""

    causes: tuple[NamedCause, ...] = ()
    tried: int = 0
    not_applicable: int = 0
    untried: int = 0  # time ran out
    closest: float | None = None
    faults: tuple[str, ...] = ()  # hypotheses that failed to compute


@dataclass(frozen=True, kw_only=True)
class _Predicted:
    hypothesis: Hypothesis
    output: Tensor  # [r', K] for the first r' rows of the scene
    culprit: str


@dataclass
class _Progress:
    end: float  # time.monotonic() at which to stop
    named: dict[Hypothesis, NamedCause] = field(default_factory=dict)
    tried: int = 0
    not_applicable: int = 0
    untried: int = 0
    closest: float | None = None
    faults: list[str] = field(default_factory=list)

    def add(self, hypothesis: Hypothesis, cause: NamedCause | None, residual: float) -> None:
        self.tried += 1
        if math.isfinite(residual):
            self.closest = residual if self.closest is None else min(self.closest, residual)
        if cause is not None:
            self.named[hypothesis] = cause

    def result(self) -> Search:
        ranked = sorted(self.named.values(), key=lambda c: (len(c.where), c.residual))
        names = ("tried", "not_applicable", "untried", "closest")
        counts = {name: getattr(self, name) for name in names}
        return Search(causes=tuple(ranked), faults=tuple(self.faults), **counts)


def search(evidence: Evidence, hypotheses: Iterable[Hypothesis], seconds: float) -> Search:
    """Try hypotheses, cheap and frequent ones first, until `seconds` have passed."""
    progress = _Progress(end=time.monotonic() + seconds)
    columns, sampled = evidence.columns, evidence.sampled
    ordered = sorted(hypotheses, key=lambda h: not h.battery)
    cheap = [h for h in ordered if not h.costly]
    costly = [h for h in ordered if h.costly]
    sampled, is_wrong = clear_first(sampled, evidence.is_wrong[sampled.rows])
    _try(cheap, sampled, is_wrong, columns, progress)
    fitting = _fitting_one_row(costly, sampled, is_wrong, columns, progress)
    _try(fitting, sampled, is_wrong, columns, progress)
    confirm([h for h in ordered if h in progress.named], evidence, progress)
    return progress.result()


def confirm(hypotheses: Sequence[Hypothesis], evidence: Evidence, progress: _Progress) -> None:
    """Test the mistakes that were named on more rows of the call, wrong and right ones.

    Rows that one does not fit take it away, or limit it to the wrong rows. What needs more time
    than there is left, and what cannot be computed for more rows, stands. Where all rows are wrong,
    the sampled ones are enough: they are spread over the call.
    """
    if not hypotheses or len(evidence.is_wrong) <= FEW:
        return
    scene = evidence.sampled if bool(evidence.is_wrong.all()) else evidence.larger
    larger = dataclasses.replace(scene, few=len(scene.rows))
    is_wrong = evidence.is_wrong[larger.rows]
    uncounted = _Progress(end=progress.end)
    for p, fit in _compared(hypotheses, larger, is_wrong, evidence.columns, uncounted):
        before = progress.named.pop(p.hypothesis)
        if fit.named:
            where = max(before.where, fit.where, key=len)
            progress.named[p.hypothesis] = dataclasses.replace(_cause(p, fit), where=where)


def _cause(predicted: _Predicted, fit: Fit) -> NamedCause:
    row, culprit = predicted.hypothesis, predicted.culprit
    text = f"{row.cause} ({culprit})" if culprit else row.cause
    return NamedCause(name=row.name, cause=text, residual=fit.residual, where=fit.where)


def _try(
    hypotheses: Sequence[Hypothesis],
    scene: Scene,
    is_wrong: Tensor,
    columns: Tensor | None,
    progress: _Progress,
) -> None:
    """Add hypotheses to the progress. is_wrong: [r] bool; columns: the wrong ones [K], or None."""
    for p, fit in _compared(hypotheses, scene, is_wrong, columns, progress):
        progress.add(p.hypothesis, _cause(p, fit) if fit.named else None, fit.residual)


def _fitting_one_row(
    hypotheses: Sequence[Hypothesis],
    scene: Scene,
    is_wrong: Tensor,
    columns: Tensor | None,
    progress: _Progress,
) -> list[Hypothesis]:
    """Return the hypotheses that fit the first row; add the others to the progress.

    The first row is a wrong one. Of FEW rows all wrong ones must fit, so the others never would.
    """
    one_row = dataclasses.replace(scene, few=1)
    fitting = []
    for p, fit in _compared(hypotheses, one_row, is_wrong, columns, progress):
        if fit.named:
            fitting.append(p.hypothesis)
        else:
            progress.add(p.hypothesis, None, fit.residual)
    return fitting


def _compared(
    hypotheses: Sequence[Hypothesis],
    scene: Scene,
    is_wrong: Tensor,
    columns: Tensor | None,
    progress: _Progress,
) -> Iterator[tuple[_Predicted, Fit]]:
    """Yield the predictions with their fits; those of one shape are compared together."""
    by_shape: dict[tuple[int, ...], list[_Predicted]] = {}
    for predicted in _predictions(hypotheses, scene, progress):
        count = len(predicted.output)
        if bool(is_wrong[:count].any()):
            by_shape.setdefault(tuple(predicted.output.shape), []).append(predicted)
        else:
            progress.not_applicable += 1  # it predicts no wrong row
    for same_shape in by_shape.values():
        outputs = torch.stack([predicted.output for predicted in same_shape])
        yield from zip(same_shape, fits_of(scene, outputs, is_wrong, columns), strict=True)


def _predictions(
    hypotheses: Sequence[Hypothesis], scene: Scene, progress: _Progress
) -> Iterator[_Predicted]:
    """Yield what can be computed before time runs out; count the others in the progress."""
    for hypothesis in hypotheses:
        if time.monotonic() >= progress.end:
            progress.untried += 1
            continue
        blamed(scene)  # forget the previous culprit
        try:
            output = hypothesis.compute(scene)
        except NotApplicable:
            progress.not_applicable += 1
        except Exception as error:
            progress.faults.append(f"{hypothesis.name}: {type(error).__name__}: {error}")
        else:
            yield _Predicted(hypothesis=hypothesis, output=output, culprit=blamed(scene))
