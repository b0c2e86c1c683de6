"""Find of which other tokens the wrong scales are that came with a rank's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.stages_collectives import SENT
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.checks.stage_bound import OfAllRanks
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "moved_scales"
SHOWN = 3  # rows that are listed one by one


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield of which tokens the wrong scales are."""
    errors, wrong = evidence.errors, evidence.stage
    if errors is None or wrong is None or wrong.expected.of_all is None:
        return
    if errors.noun != "scales" or SENT not in wrong.labels:
        return
    tokens = dict(zip(wrong.labels["rows"].tolist(), wrong.labels[SENT].tolist(), strict=True))
    own = errors.numbers.new_tensor([tokens[number] for number in errors.numbers.tolist()])
    cause = moved_scales(errors, wrong.expected.of_all, own)
    if cause is not None:
        yield cause


def moved_scales(errors: StageErrors, of_all: OfAllRanks, own: Tensor) -> NamedCause | None:
    """Return the cause if the scales of each wrong row are those of one other token.

    of_all: the scales [S, C] of all tokens. own: [R] int64, the token of each row, among these S.
    """
    wrong = errors.is_wrong.any(dim=1)
    is_same = (errors.actual[wrong][:, None] == of_all.value).all(dim=2)  # [r, S]
    if not len(is_same) or not bool((is_same.sum(dim=1) == 1).all()):
        return None
    source = is_same.int().argmax(dim=1)
    if bool((source == own[wrong]).any()):
        return None
    text = _text(errors.numbers[wrong], own[wrong] - source, source, of_all)
    cause = f"{errors.place} scales are those of {text}"
    return NamedCause(name=NAME, cause=cause, residual=0.0, where=errors.where_wrong)


def _text(rows: Tensor, steps: Tensor, source: Tensor, of_all: OfAllRanks) -> str:
    """Return whose scales the rows have. steps: [r], how far before its own token each one is."""
    distances = set(steps.tolist())
    if len(distances) == 1 and len(rows) > 1:
        (step,) = distances
        gap = "" if abs(step) == 1 else f"{abs(step)} "
        return f"the token {gap}{'before' if step > 0 else 'after'} each, in the order of ranks"
    pairs = zip(rows.tolist(), source.tolist(), strict=True)
    listed = [
        f"row {row} has those of rank {int(of_all.ranks[s])}'s token {int(of_all.rows[s])}"
        for row, s in list(pairs)[:SHOWN]
    ]
    return f"other tokens: {', '.join(listed)}"
