"""Find what the wrong rows of the first wrong stage inside the experts have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.diagnosis.conditions import splitting
from harness.diagnosis.stage_terms import departing, facts_of, handed_of
from harness.record.diagnosis import Pattern

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_bound import WrongStage
    from harness.diagnosis.evidence import Evidence

STAGES = ("gemm1", "activation", "second", "gemm2", "weighted")  # a row for each token and slot


def of_stage(evidence: Evidence) -> list[Pattern]:
    """Return the pattern if a condition holds for every wrong row of the stage and no right one."""
    wrong = evidence.stage
    if wrong is None or evidence.subject is None or wrong.stage not in STAGES:
        return []
    is_wrong = departing(wrong).any(dim=1)
    is_known = wrong.expected.value.isfinite().all(dim=1)
    facts = facts_of(handed_of(evidence), wrong.labels["rows"])
    conditions = splitting(facts, is_wrong & is_known, ~is_wrong & is_known)
    if not conditions:
        return []
    same = "" if len(conditions) == 1 else f" (the same: {conditions[1].text})"
    text = f"stage {wrong.stage} is wrong for {conditions[0].text} only{same}"
    return [Pattern(name="stage_rows", text=f"{text}{_contents(wrong, is_wrong)}")]


def _contents(wrong: WrongStage, is_wrong: Tensor) -> str:
    """Return what all wrong rows hold, if they hold no values."""
    rows = wrong.actual[is_wrong]
    if bool(rows.isnan().all()):
        return "; these rows are all NaN, so perhaps never written"
    return "; these rows are all zero" if bool((rows == 0).all()) else ""
