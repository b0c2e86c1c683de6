"""Find by which rule wrong ids of a stage differ from the right ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence

NAME = "which_ids"
FEWEST = 2  # wrong ids: a single one follows any rule
MOST_IDS = 6  # that are listed
CHANCE = 0.01  # largest probability that some rule by row numbers gives all ids by chance
MOST_PAIRS = 3  # of a right id and the one that is in its place


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the rule that gives all ids of the stage, wrong ones and right ones."""
    errors = evidence.errors
    if errors is None or errors.noun != "ids":
        return
    held, right = errors.actual, errors.expected
    text = by_row(held, right, errors.numbers)
    every = torch.arange(len(right), device=right.device)
    if text is None and torch.equal(errors.numbers, every):
        text = shifted(held, right)
    text = which_ids(held, right) if text is None else text
    if text is not None:
        yield NamedCause(name=NAME, cause=f"{errors.place} {text}", residual=0.0)


def by_row(actual: Tensor, expected: Tensor, rows: Tensor) -> str | None:
    """Return the rule by which ids follow from the numbers of rows alone, or None.

    actual, expected: [R, C]; only one id in a row can follow such a rule. rows: [R], the numbers.
    """
    if actual.shape[1] != 1:
        return None
    is_used = (expected[:, 0] >= 0) & (actual[:, 0] >= 0)
    ids, right, rows = actual[is_used, 0].long(), expected[is_used, 0].long(), rows[is_used]
    if int((ids != right).sum()) < FEWEST:
        return None
    count = int(ids.max()) + 1
    rules = {f"r % {count}": rows % count}
    rules |= {f"r // {room}": rows // room for room in range(2, int(rows.max()) + 1)}
    if count < 2 or len(rules) * float(count) ** -len(ids) > CHANCE:
        return None
    text = next((text for text, given in rules.items() if torch.equal(given, ids)), None)
    return None if text is None else f"row r has the id {text}, whatever its expert is"


def shifted(actual: Tensor, expected: Tensor) -> str | None:
    """Return by how many places ids lie too late or too early in memory, in words, or None.

    Both [R, C], of all rows in order. What comes from before the first or after the last is
    unknown; all else must be what belongs some places further on, and not so by chance.
    """
    flat, right = actual.flatten(), expected.flatten()
    kinds, count = len(torch.unique(right)), len(flat)
    for by in (step for size in range(1, count // 2 + 1) for step in (size, -size)):
        to, source = (
            (slice(by, None), slice(None, -by)) if by > 0 else (slice(None, by), slice(-by, None))
        )
        off = int((right[source] != right[to]).sum())
        is_sure = kinds > 1 and count * float(kinds) ** -off <= CHANCE
        if is_sure and torch.equal(flat[to], right[source]):
            side, columns = "before" if by > 0 else "after", actual.shape[1]
            if by % columns:
                return f"each id is that of the slot {abs(by)} {side} it, over all rows"
            rows = abs(by) // columns
            return f"each row has the ids of the row {'' if rows == 1 else f'{rows} '}{side} it"
    return None


def which_ids(actual: Tensor, expected: Tensor) -> str | None:
    """Return the rule in words, or None. Both [R, C], of whole numbers; -1 is no id."""
    wrong = actual != expected
    pairs = list(zip(expected.flatten().tolist(), actual.flatten().tolist(), strict=True))
    of_wrong = {(int(a), int(b)) for a, b in pairs if a != b}
    if int(wrong.sum()) < FEWEST:
        return None
    right, held = {a for a, _ in of_wrong}, {b for _, b in of_wrong}
    is_function = len(of_wrong) == len(right) and not any(a == b and a in right for a, b in pairs)
    steps = {b - a for a, b in of_wrong}
    if held == {-1}:
        ids = _listed(sorted(right)) if is_function else "some ids"
        return f"{ids} are lost: -1 is in their place"
    if right == {-1}:
        return f"slots without an id (-1) have {_listed(sorted(held))}"
    if len(steps) == 1 and len(of_wrong) > 1:
        (step,) = steps
        which = "all ids" if is_function else "the wrong ids"
        return f"{which} are {abs(step)} too {'high' if step > 0 else 'low'}"
    if is_function and len(of_wrong) <= MOST_PAIRS:
        named = ", ".join(f"{b} is in the place of {a}" for a, b in sorted(of_wrong))
        return f"always {named}"
    return None


def _listed(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:MOST_IDS]))
    more = ", ..." if len(ids) > MOST_IDS else ""
    return f"{'id' if len(ids) == 1 else 'ids'} {shown}{more}"
