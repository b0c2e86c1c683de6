"""Find what the wrong rows of the first wrong stage inside the experts have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.diagnosis.conditions import Fact, splitting
from harness.diagnosis.output_terms import place_among_equal
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
LAST = "the last row of each expert"
OWN = ("finalize", "restored", "shared", "out")  # a row for each of this rank's tokens


def of_stage(evidence: Evidence) -> list[Pattern]:
    """Return the pattern if a condition holds for every wrong row of the stage and no right one."""
    wrong = evidence.stage
    if wrong is None or evidence.subject is None or "rows" not in wrong.labels:
        return []
    is_wrong = departing(wrong).any(dim=1)
    is_known = wrong.expected.value.isfinite().all(dim=1)
    handed, numbers = handed_of(evidence), wrong.labels["rows"]
    text = rows_text(_facts(handed, wrong.stage, numbers), wrong.actual, is_wrong, is_known)
    if text is None and wrong.stage in BY_SLOT:
        further = slot_facts(handed, numbers)
        text = rows_text(further, wrong.actual, is_wrong, is_known)
    if text is None and "ranks" in wrong.labels:
        sender = Fact(one="rank", many="ranks", values=wrong.labels["ranks"].double())
        text = rows_text([sender], wrong.actual, is_wrong, is_known)
        text = None if text is None else text.replace(" for ", " for what came from ")
    if text is None:
        return []
    return [Pattern(name="stage_rows", text=f"stage {wrong.stage} {text}")]


def _facts(handed: Handed, stage: str, numbers: Tensor) -> list[Fact]:
    """Return what is known of a stage's rows: flat, gathered, or this rank's own."""
    if stage in BY_SLOT:
        return facts_of(handed, numbers)
    if stage == "combine":
        return token_facts(handed, numbers)
    return own_facts(handed, numbers) if stage in OWN else []


def slot_facts(handed: Handed, flat: Tensor) -> list[Fact]:
    """Return further facts of these flat rows, [r] each: of their expert's load, their token."""
    ids = handed.ids.flatten()
    counts = torch.bincount(ids[ids >= 0], minlength=int(ids.max()) + 1)[ids[flat]]
    is_last = place_among_equal(ids)[flat] == counts - 1
    counts_here = (handed.ids[flat // handed.top_k] >= 0).sum(dim=1)
    facts = [
        Fact(
            one="experts whose number of rows is",
            many="experts whose numbers of rows are",
            values=counts.double(),
            from_on="experts with {} rows and more",
            within=ids[flat],
        ),
        Fact(one="", many="", values=is_last.double(), names=("other rows", LAST)),
    ]
    if handed.top_k > 1:
        name = "tokens whose number of experts here is"
        facts.append(Fact(one=name, many=name, values=counts_here.double()))
    return facts


def own_facts(handed: Handed, rows: Tensor) -> list[Fact]:
    """Return what is known of this rank's own rows, [r] each: their number and their experts."""
    routing, spec = handed.call.output.routing, handed.layer_spec
    ids = routing.topk_ids[rows].long()
    zero = (ids >= spec.num_experts) if handed.subject.case.zero_experts else ids < 0
    sent = handed.local_ids(handed.sent_ids(routing.topk_ids[rows]))
    counts_here = (sent >= 0).sum(dim=1)
    name = "tokens whose number of experts on this rank is"
    kinds = ("rows without a zero expert", "rows with a zero expert")
    return [
        Fact(one="row", many="rows", values=rows.double()),
        Fact(one=name, many=name, values=counts_here.double()),
        Fact(one="", many="", values=zero.any(dim=1).double(), names=kinds),
    ]


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
