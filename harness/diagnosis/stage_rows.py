"""Find what the wrong rows of the first wrong stage inside the experts have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.diagnosis.conditions import Fact, splitting
from harness.diagnosis.stage_terms import departing, facts_of, handed_of
from harness.record.diagnosis import Pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.diagnosis.evidence import Evidence

BY_SLOT = ("gemm1", "activation", "second", "gemm2", "weighted")  # a row for each token and slot
UNUSED = "rows with a slot that this rank does not compute (-1)"
NOTHING = "rows without any expert of this rank"


def of_stage(evidence: Evidence) -> list[Pattern]:
    """Return the pattern if a condition holds for every wrong row of the stage and no right one."""
    wrong = evidence.stage
    if wrong is None or evidence.subject is None or wrong.stage not in (*BY_SLOT, "combine"):
        return []
    is_wrong = departing(wrong).any(dim=1)
    is_known = wrong.expected.value.isfinite().all(dim=1)
    handed, numbers = handed_of(evidence), wrong.labels["rows"]
    facts_here = token_facts if wrong.stage == "combine" else facts_of
    text = rows_text(facts_here(handed, numbers), wrong.actual, is_wrong, is_known)
    if text is None:
        return []
    return [Pattern(name="stage_rows", text=f"stage {wrong.stage} {text}")]


def rows_text(
    facts: Sequence[Fact], actual: Tensor, is_wrong: Tensor, is_known: Tensor
) -> str | None:
    """Return what tells the wrong rows of `actual` [r, C], or those that are NaN, or None.

    is_wrong, is_known: [r] bool.
    """
    text = _condition(facts, is_wrong & is_known, ~is_wrong & is_known)
    if text is not None:
        return f"is wrong for {text} only{_contents(actual[is_wrong], text)}"
    is_nan = actual.isnan().all(dim=1) & is_wrong & is_known
    text = _condition(facts, is_nan, ~is_nan & is_known)
    return None if text is None else f"is NaN for {text} only, and wrong for others, too"


def _condition(facts: Sequence[Fact], rows: Tensor, others: Tensor) -> str | None:
    """Return a condition that holds for all these rows and no others, in words, or None."""
    conditions = splitting(facts, rows, others)
    if not conditions:
        return None
    same = "" if len(conditions) == 1 else f" (the same: {conditions[1].text})"
    return f"{conditions[0].text}{same}"


def token_facts(handed: Handed, tokens: Tensor) -> list[Fact]:
    """Return what is known of these gathered rows, [r] each."""
    used = (handed.ids[tokens] >= 0).sum(dim=1)
    some = Fact(one="", many="", values=(used < handed.top_k).double(), names=("full rows", UNUSED))
    none = Fact(
        one="", many="", values=(used == 0).double(), names=("rows with experts here", NOTHING)
    )
    row = Fact(one="gathered row", many="gathered rows", values=tokens.double())
    return [some, none, row]


def _contents(rows: Tensor, text: str) -> str:
    """Return what the wrong rows [r, C], which a condition tells, hold if they hold no values."""
    if bool(rows.isnan().all()):
        added, unknown = ", as if such slots were added", ": never written, or computed from NaN"
        return f"; these rows are all NaN{added if UNUSED in text else unknown}"
    return "; these rows are all zero" if bool((rows == 0).all()) else ""
