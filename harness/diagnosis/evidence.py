"""Hold what explanations are made from: one failed call on one rank, and its first wrong stage."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.output_terms import terms_of
from harness.diagnosis.patterns import of_columns
from harness.diagnosis.stage_errors import stage_errors
from harness.diagnosis.wrong_rows import sample_rows, scene_of_rows, spread

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_bound import WrongStage
    from harness.diagnosis.patterns import Mismatch
    from harness.diagnosis.stage_errors import StageErrors
    from harness.diagnosis.terms import Terms
    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.mutants.sample import Scene

MANY_ROWS = 96  # rows on which a statement made from a sample is tested


@dataclass(frozen=True)
class Evidence:
    """What is known of one failed call on one rank.

    scene: of the call, with any rows. stage: the first wrong one, or None. subject: what is tested,
    None if the stages' inputs are not asked for.
    """

    scene: Scene
    call: Call
    mismatch: Mismatch
    stage: WrongStage | None = None
    subject: Subject | None = None

    @cached_property
    def is_wrong(self) -> Tensor:
        """Return [T] bool, the wrong rows; all rows if no single one is beyond its tolerance."""
        rows = self.mismatch.rows
        return rows if bool(rows.any()) else torch.ones_like(rows)

    @cached_property
    def columns(self) -> Tensor | None:
        """Return [K] bool, the wrong columns, or None if these have no pattern."""
        return self.mismatch.columns if of_columns(self.mismatch) else None

    @cached_property
    def sampled(self) -> Scene:
        """Return a scene of a few wrong rows and some right ones."""
        return sample_rows(self.scene, self.call, self.is_wrong)

    @cached_property
    def errors(self) -> StageErrors | None:
        """Return the elements of the first wrong stage, or of the output if none is wrong."""
        return stage_errors(self)

    def of_finite(self) -> Evidence | None:
        """Return the evidence with what is finite of the first wrong stage alone.

        Rows of NaN are left out, and single elements taken for right ones. None without a stage, if
        all elements are finite, or if fewer than two rows are wrong where they are finite.
        """
        errors = self.errors
        if self.stage is None or errors is None:
            return None
        is_finite = errors.actual.isfinite()
        rows = is_finite.any(dim=1)
        if bool(is_finite.all()) or int((errors.is_wrong & is_finite).any(dim=1).sum()) < 2:
            return None
        known = torch.where(is_finite, errors.actual, errors.expected)
        finite = dataclasses.replace(self)
        of_known = dataclasses.replace(errors, actual=known).of_rows(rows.nonzero().flatten())
        finite.__dict__["errors"] = of_known
        return finite

    @cached_property
    def shares(self) -> list[Terms]:
        """Return the sampled rows of the output as sums."""
        return list(terms_of(self, self.sampled))

    @cached_property
    def larger(self) -> Scene:
        """Return a scene of up to MANY_ROWS rows; the reference computes their parts again."""
        if len(self.sampled.rows) == len(self.is_wrong):
            return self.sampled
        wrong = spread(self.is_wrong.nonzero().flatten(), 2 * MANY_ROWS // 3)
        right = spread((~self.is_wrong).nonzero().flatten(), MANY_ROWS - len(wrong))
        return scene_of_rows(self.scene, self.call, torch.cat([wrong, right]))
