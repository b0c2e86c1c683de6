"""Hold the first wrong stage as a table of elements: what it holds, what it should, and facts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from harness.checks.output import row_tolerance
from harness.diagnosis.conditions import Fact, only_where
from harness.diagnosis.fit import MAX_RESIDUAL, grid_of
from harness.diagnosis.stage_terms import departing, facts_of, handed_of
from harness.diagnosis.wrong_rows import spread
from moe.reference.formats import on_grid, step_of

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_bound import WrongStage
    from harness.diagnosis.evidence import Evidence

BY_SLOT = ("gemm1", "activation", "second", "gemm2", "weighted")  # a row for each token and slot
MOST_ELEMENTS = 2**21  # more rows than these are not looked at
MARGIN = 1.5  # times a tolerance: what a statement predicts is noisy, too
ROW_MARGIN = 3.0  # times a row's tolerance per element, as `patterns.find_mismatch` has it
LEAST = 2.0**-20  # tolerance, as a part of a value: of sums of float32


@dataclass(frozen=True, kw_only=True)
class StageErrors:
    """The elements of a stage of R rows and C columns; rows hold no expected NaN.

    stage: its name; empty for the layer's output, if no stage is known to be wrong. noun: what the
    elements are called, such as "scales". actual, expected, tolerance: [R, C] float32, the
    tolerance above 0. numbers: [R], the rows' numbers. facts: of each row, [R]. halves: whether the
    first half of the columns is gate and the other up.
    """

    stage: str
    noun: str
    actual: Tensor
    expected: Tensor
    tolerance: Tensor
    numbers: Tensor
    facts: tuple[Fact, ...]
    halves: bool = False

    @property
    def place(self) -> str:
        """Return where the elements are, in words."""
        return f"in stage {self.stage}" if self.stage else "in the output"

    @cached_property
    def is_wrong(self) -> Tensor:
        """Return [R, C] bool: the elements beyond their tolerance."""
        return ~((self.actual - self.expected).abs() <= self.tolerance)

    @cached_property
    def is_exact(self) -> bool:
        """Tell whether right values have no error but float32's."""
        return bool((self.tolerance <= 2 * LEAST * self.expected.abs() + 1e-30).all())

    @cached_property
    def step(self) -> float:
        """Return the tolerance of a value, as a part of its size: twice the usual one.

        Values that a mistake made are rounded in another place of their power of two.
        """
        size = self.expected.abs()
        ratio = (self.tolerance / size)[size > 0]
        return 2 * float(ratio.median()) if len(ratio) else 0.0

    @cached_property
    def noise(self) -> Tensor:
        """Return [R, C], the tolerance of values as large as those that are held."""
        return torch.maximum(self.tolerance, self.step * self.actual.abs())

    def of_rows(self, rows: Tensor) -> StageErrors:
        """Return some rows only. rows: [r] int64."""
        parts = {
            name: getattr(self, name)[rows]
            for name in ("actual", "expected", "tolerance", "numbers")
        }
        facts = tuple(fact.with_values(fact.values[rows]) for fact in self.facts)
        return dataclasses.replace(self, **parts, facts=facts)

    def sampled(self, wrong: int, right: int) -> StageErrors:
        """Return at most so many wrong and right rows, spread over all, in their order."""
        is_wrong = self.is_wrong.any(dim=1)
        chosen = (
            spread(is_wrong.nonzero().flatten(), wrong),
            spread((~is_wrong).nonzero().flatten(), right),
        )
        return self.of_rows(torch.cat(chosen).sort().values)

    def left_by(self, predicted: Tensor, factor: Tensor | float = 1.0) -> float | None:
        """Return which part of the error a prediction [R, C] leaves; None unless all elements fit.

        None, too, if no element is wrong by itself: then right values would fit as well.

        factor: [R, C], by how much the expected values and their noise were multiplied.
        """
        larger = self.tolerance * torch.as_tensor(factor).abs().clamp(min=1.0)
        allowed = torch.maximum(larger, self.step * predicted.abs())
        if self.is_exact and self.grid is not None:  # what was predicted was rounded all the same
            allowed = torch.maximum(allowed, step_of(predicted.abs(), self.grid) / 2)
        remaining = (self.actual - predicted).abs()
        if not bool((remaining <= MARGIN * allowed).all() & self.is_wrong.any()):
            return None
        as_held = (self.actual - self.rounded(predicted))[self.is_wrong].norm()
        error = (self.actual - self.expected)[self.is_wrong].norm().clamp(min=1e-38)
        return float(torch.minimum(remaining[self.is_wrong].norm(), as_held) / error)

    def fitting(self, predicted: Tensor) -> tuple[float, str] | None:
        """Return which part of the error a prediction [R, C] leaves, and where it holds; or None.

        It holds in all rows, or in the wrong ones only; these are told by a condition on their
        facts, as the end of a sentence. MAX_RESIDUAL is the most that it may leave.
        """
        residual = self.left_by(predicted)
        if residual is not None and residual <= MAX_RESIDUAL:
            return residual, ""
        rows = self.is_wrong.any(dim=1)
        if bool(rows.all()) or not bool(rows.any()):
            return None
        residual = self.left_by(torch.where(rows[:, None], predicted, self.expected))
        if residual is None or residual > MAX_RESIDUAL:
            return None
        return residual, self.where_wrong

    @property
    def where_wrong(self) -> str:
        """Return the condition for the wrong rows, as the end of a sentence; "" if all are."""
        rows = self.is_wrong.any(dim=1)
        return "" if bool(rows.all()) else only_where(self.facts, rows)

    @cached_property
    def grid(self) -> str | None:
        """Return the 16-bit dtype that holds all values of the stage, if there is one."""
        return grid_of(self.actual)

    def rounded(self, predicted: Tensor) -> Tensor:
        """Return a prediction as the stage would hold it: an error may be as small as a step."""
        return predicted if self.grid is None else on_grid(predicted, self.grid)


def stage_errors(evidence: Evidence) -> StageErrors | None:
    """Return the elements of the first wrong stage, or of the output where none is wrong.

    None for an output without a wrong row, and if no row is known.
    """
    wrong = evidence.stage
    if wrong is None:
        return _output_errors(evidence)
    if evidence.subject is None or not wrong.actual.numel():
        return None
    rows = _rows(wrong)
    if len(rows) == 0:
        return None
    expected = wrong.expected.value[rows]
    tolerance = wrong.expected.tolerance.expand_as(wrong.expected.value)[rows]
    numbers = wrong.labels.get("rows", torch.arange(len(wrong.actual), device=rows.device))[rows]
    activation = evidence.subject.reference.activation
    return StageErrors(
        stage=wrong.stage,
        noun=wrong.noun,
        actual=wrong.actual[rows],
        expected=expected,
        tolerance=torch.maximum(tolerance, LEAST * expected.abs()).clamp(min=1e-30),
        numbers=numbers,
        facts=tuple(_facts(evidence, wrong.stage, numbers)),
        halves=wrong.stage == "gemm1" and activation.gated,
    )


def _output_errors(evidence: Evidence) -> StageErrors | None:
    """Return the elements of the output, if single rows of it are wrong."""
    out, answer = evidence.call.output.out, evidence.call.answer
    if not bool(evidence.mismatch.rows.any()):
        return None
    expected = answer.out.float()
    of_element = ROW_MARGIN * row_tolerance(answer).float() / max(out.shape[1], 1) ** 0.5
    rounding = torch.finfo(out.dtype).eps * expected.abs()
    numbers = torch.arange(len(out), device=out.device)
    is_known = expected.isfinite().all(dim=1)
    return StageErrors(
        stage="",
        noun="elements",
        actual=out.float()[is_known],
        expected=expected[is_known],
        tolerance=(of_element[:, None] + rounding)[is_known].clamp(min=1e-30),
        numbers=numbers[is_known],
        facts=(Fact(one="row", many="rows", values=numbers[is_known].double()),),
    )


def _rows(wrong: WrongStage) -> Tensor:
    """Return [r], rows of which all that is expected is known, wrong ones and right ones alike."""
    is_known = wrong.expected.value.isfinite().all(dim=1)
    is_wrong = departing(wrong).any(dim=1)
    limit = max(MOST_ELEMENTS // wrong.actual.shape[1], 2)
    wrong_rows = spread((is_known & is_wrong).nonzero().flatten(), limit)
    right_rows = spread((is_known & ~is_wrong).nonzero().flatten(), limit)
    return torch.cat([wrong_rows, right_rows]).sort().values


def _facts(evidence: Evidence, stage: str, numbers: Tensor) -> list[Fact]:
    if stage in BY_SLOT:
        return facts_of(handed_of(evidence), numbers)
    return [Fact(one="row", many="rows", values=numbers.double())]
