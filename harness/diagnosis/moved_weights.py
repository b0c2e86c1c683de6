"""Find of which other tokens and slots the wrong router weights are that reached the experts.

A router weight is a float32 number that no other slot has by chance, so that one that is in another
place is recognised by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.checks.stage_bound import OfAllRanks
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "moved_weights"
FEWEST = 2  # wrong weights
SHOWN = 3  # weights that are listed one by one


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield which weights the wrong ones are."""
    errors, wrong = evidence.errors, evidence.stage
    if errors is None or wrong is None or wrong.expected.of_all is None:
        return
    if errors.noun != "router weights":
        return
    tokens = wrong.labels["tokens"]
    at = {int(row): int(token) for row, token in zip(wrong.labels["rows"], tokens, strict=True)}
    own = torch.tensor([at[int(number)] for number in errors.numbers], device=tokens.device)
    cause = moved_weights(errors, wrong.expected.of_all, own)
    if cause is not None:
        yield cause


def moved_weights(errors: StageErrors, of_all: OfAllRanks, own: Tensor) -> NamedCause | None:
    """Return the cause if each wrong weight is that of one other slot.

    of_all: the weights [S, k] of all tokens. own: [R] int64, the token of each row, among these S.
    """
    wrong = errors.is_wrong
    values = of_all.value.flatten()
    rows, slots = wrong.nonzero(as_tuple=True)
    is_same = errors.actual[wrong][:, None] == values
    if len(rows) < FEWEST or not bool((is_same.sum(dim=1) == 1).all()):
        return None
    source = is_same.int().argmax(dim=1)
    width = of_all.value.shape[1]
    tokens, from_slots = source // width, source % width
    text = _text((own[rows], slots), (tokens, from_slots), of_all)
    cause = f"{errors.place} router weights are {text}"
    return NamedCause(name=NAME, cause=cause, residual=0.0, where=errors.where_wrong)


def _text(places: tuple[Tensor, Tensor], sources: tuple[Tensor, Tensor], of_all: OfAllRanks) -> str:
    """Return which weights the wrong ones are, as the end of "router weights are"."""
    (rows, slots), (tokens, from_slots) = places, sources
    steps, by = set((rows - tokens).tolist()), set((slots - from_slots).tolist())
    if len(steps) == 1 and len(by) == 1:
        parts = [_side("token", steps.pop()), _side("slot", by.pop())]
        return f"those of {' and '.join(filter(None, parts))}"
    if len(set(tokens.tolist())) == 1 and by == {0}:
        return f"those of token {int(tokens[0])} of all ranks"
    if steps == {0} and len(set(from_slots.tolist())) == 1:
        return f"those of slot {int(from_slots[0])} of their token"
    ranks, numbers = of_all.ranks[tokens].tolist(), of_all.rows[tokens].tolist()
    pairs = zip(slots.tolist(), rows.tolist(), from_slots.tolist(), ranks, numbers, strict=True)
    listed = [
        f"slot {slot} of token {row} has that of slot {other} of rank {rank}'s row {number}"
        for slot, row, other, rank, number in list(pairs)[:SHOWN]
    ]
    return f"those of other slots: {', '.join(listed)}"


def _side(noun: str, step: int) -> str:
    """Return "the token 3 before each", or "" for no distance."""
    if step == 0:
        return ""
    gap = "" if abs(step) == 1 else f" {abs(step)}"
    return f"the {noun}{gap} {'before' if step > 0 else 'after'} each"
