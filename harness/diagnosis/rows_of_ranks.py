"""Find out whether wrong rows of a sum over ranks hold those of other rows, of any rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.stage_errors import MARGIN
from harness.record.diagnosis import NamedCause
from harness.record.formatting import numbers_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.checks.stage_bound import OfAllRanks
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "rows_of_ranks"
FEWEST = 2  # wrong rows that hold another row's values
SHOWN = 3  # rows that are listed one by one


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield which rows the wrong ones hold."""
    errors, wrong = evidence.errors, evidence.stage
    if errors is None or wrong is None or wrong.expected.of_all is None:
        return
    if errors.noun != "elements":
        return
    cause = rows_of_ranks(errors, wrong.expected.of_all, evidence.scene.rank)
    if cause is not None:
        yield cause


def rows_of_ranks(errors: StageErrors, of_all: OfAllRanks, rank: int) -> NamedCause | None:
    """Return the cause if each wrong row holds another row, or none: zeros, or NaN."""
    wrong = errors.is_wrong.any(dim=1).nonzero().flatten()
    actual = errors.actual[wrong]
    is_empty = (actual == 0).all(dim=1) | actual.isnan().all(dim=1)
    held, numbers = actual[~is_empty], errors.numbers[wrong]
    if len(held) < FEWEST or not bool(held.isfinite().all()) or len(of_all.value) < 3:
        return None
    near = torch.cdist(held, of_all.value).topk(2, dim=1, largest=False).indices
    tolerance = errors.noise[wrong][~is_empty] * MARGIN
    apart = (held[:, None] - of_all.value[near]).abs()
    fits = (apart <= tolerance[:, None]).all(dim=2)  # [r, 2]
    own = of_all.tokens[(of_all.ranks == rank).nonzero().flatten()]
    at = own[torch.searchsorted(of_all.rows[of_all.ranks == rank], numbers[~is_empty])]
    source = near[:, 0]
    if not bool(fits[:, 0].all()) or bool(fits[:, 1].any()):
        return None
    if bool((of_all.tokens[source] == at).any()):
        return None
    error = (held - errors.expected[wrong][~is_empty]).norm().clamp(min=1e-38)
    residual = float(apart[:, 0].norm() / error)
    if residual > MAX_RESIDUAL:
        return None
    text = _text(numbers[~is_empty], at, source, of_all)
    if bool(is_empty.any()):
        listed = numbers_text(numbers[is_empty].tolist())
        text += f"; rows {listed} hold only zeros or NaN"
    cause = f"{errors.place} {text}"
    return NamedCause(name=NAME, cause=cause, residual=residual, where=errors.where_wrong)


def _text(rows: Tensor, at: Tensor, source: Tensor, of_all: OfAllRanks) -> str:
    """Return which rows hold whose values, as a clause. at: [r], of all ranks' rows, their own."""
    steps = set((at - of_all.tokens[source]).tolist())
    ranks = set(of_all.ranks[source].tolist())
    if len(steps) == 1:
        (step,) = steps
        side = "before" if step > 0 else "after"
        gap = "" if abs(step) == 1 else f"{abs(step)} "
        text = f"each wrong row holds the sum of the row {gap}{side} it, where the rows of all "
        return f"{text}ranks are joined in rank order{_examples(rows, source, of_all)}"
    if len(ranks) == 1 and torch.equal(of_all.rows[source], rows):
        return f"each wrong row holds the sum of the row with its number on rank {ranks.pop()}"
    return f"wrong rows hold the sums of other rows{_examples(rows, source, of_all)}"


def _examples(rows: Tensor, source: Tensor, of_all: OfAllRanks) -> str:
    pairs = zip(rows.tolist(), source.tolist(), strict=True)
    listed = [
        f"row {row} that of rank {int(of_all.ranks[s])}'s row {int(of_all.rows[s])}"
        for row, s in list(pairs)[:SHOWN]
    ]
    return f" ({', '.join(listed)})"
