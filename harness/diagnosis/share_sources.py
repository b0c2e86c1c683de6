"""List from where a wrong index may take the term of a slot: other rows, other slots, both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

FARTHEST = 64  # rows between a row and the one that is taken in its place


@dataclass(frozen=True, kw_only=True)
class Source:
    """One rule. text: what is taken, in words, after "those of". at: [R, P] int64, which term of
    all, r * P + p, is in the place of each; -1 = none, so zero.
    """

    text: str
    at: Tensor


def sources(rows: Tensor, has_term: Tensor, experts: Tensor | None) -> Iterator[Source]:
    """Yield the rules. rows: [R] int64, numbers. has_term: [R, P] bool. experts: [R, P], or None.

    Where a rule leads beyond the first or last row, it is tried with the row itself, with the row
    at the other end, and with nothing.
    """
    count, slots = has_term.shape
    table = _places(rows)
    flat = torch.arange(count * slots, device=rows.device).view(count, slots)
    yield from _other_slots(flat)
    yield from _shifted(rows, table, flat)
    each = flat[:, None].expand(count, count, slots).unbind()
    for number, at in zip(rows.tolist(), each, strict=True):
        yield Source(text=f"row {number}", at=at)
    if bool((rows.sort().values == torch.arange(count, device=rows.device)).all()):
        yield from _in_flat_order(rows, flat)
    yield from _of_present(rows, flat, has_term)
    if experts is not None:
        yield from _of_same_expert(rows, flat, experts)


def _places(rows: Tensor) -> Tensor:
    """Return where each number is among the rows; -1 = nowhere."""
    table = torch.full((int(rows.max()) + 1,), -1, dtype=torch.int64, device=rows.device)
    table[rows] = torch.arange(len(rows), device=rows.device)
    return table


def _other_slots(flat: Tensor) -> Iterator[Source]:
    slots = flat.shape[1]
    for step in range(1, slots):
        side = f"the slot {step} before it" if step > 1 else "the slot before it"
        yield Source(text=f"{side}, in a circle", at=flat.roll(step, 1))
    if slots > 2:
        yield Source(text="the slots in reverse order", at=flat.flip(1))
    for slot in range(slots):
        yield Source(
            text=f"slot {slot} of the same row", at=flat[:, slot : slot + 1].expand_as(flat)
        )


def _shifted(rows: Tensor, table: Tensor, flat: Tensor) -> Iterator[Source]:
    """Yield the rows some rows before and after each; all are found at once, which costs little."""
    span = min(int(rows.max() - rows.min()), FARTHEST)
    steps = [step for distance in range(1, span + 1) for step in (distance, -distance)]
    by = torch.tensor(steps, dtype=torch.int64, device=rows.device)[:, None]
    wanted = rows - by  # [S, R]
    is_inside = (wanted >= 0) & (wanted < len(table))
    place = torch.where(is_inside, table[wanted.clamp(0, len(table) - 1)], -1)
    ends = torch.where(by > 0, rows.argmin(), rows.argmax())
    own = torch.arange(len(rows), device=rows.device)
    endings = ((table[wanted % len(table)], ", in a circle"), (own, ""), (ends, ""))
    taken = [
        (_rows_at(flat, torch.where(is_inside, place, end)).unbind(), text) for end, text in endings
    ]
    others, leaves = _rows_at(flat, place).unbind(), (~is_inside).any(dim=1).tolist()
    for number, step in enumerate(steps):
        gap = "the row" if abs(step) == 1 else f"the row {abs(step)}"
        text = f"{gap} {'before' if step > 0 else 'after'} it"
        for places, ending in taken:
            yield Source(text=f"{text}{ending}", at=places[number])
        if leaves[number]:
            yield Source(text=text, at=others[number])
    mirrored = _rows_at(flat, table[rows.max() + rows.min() - rows])
    yield Source(text="the rows in reverse order", at=mirrored)


def _rows_at(flat: Tensor, at: Tensor) -> Tensor:
    """Return [..., R, P], the terms of the rows at these places [..., R]; -1 for -1."""
    return torch.where((at >= 0)[..., None], flat[at.clamp(min=0)], -1)


def _in_flat_order(rows: Tensor, flat: Tensor) -> Iterator[Source]:
    """Yield rules about row * k + slot of rows that are all there."""
    count, slots = flat.shape
    order = rows.argsort()  # place of each number
    number = rows[:, None] * slots + torch.arange(slots, device=rows.device)

    def taken(wanted: Tensor) -> Tensor:
        safe = wanted % (count * slots)
        return order[safe // slots] * slots + safe % slots

    slot, row = number % slots, number // slots
    yield Source(text="number slot * rows + row, not row * k + slot", at=taken(slot * count + row))
    transposed = taken(number % count * slots + number // count)
    yield Source(text="the place row + rows * slot, not row * k + slot", at=transposed)
    for step in (1, -1):
        side = "before" if step > 0 else "after"
        text = f"the number row * k + slot {side} it"
        yield Source(text=text, at=taken(number - step))
        at = taken((number - step).clamp(0, count * slots - 1))
        yield Source(text=text, at=at)


def _of_present(rows: Tensor, flat: Tensor, has_term: Tensor) -> Iterator[Source]:
    """Yield the rows before and after each that have a term there, too."""
    for step in (1, -1):
        side = "before" if step > 0 else "after"
        for ending in (", in a circle", ""):
            at = torch.full_like(flat, -1)
            for slot in range(flat.shape[1]):
                present = has_term[:, slot].nonzero().flatten()
                present = present[rows[present].argsort()]
                taken = present.roll(step)
                if not ending and len(present):
                    taken[0 if step > 0 else -1] = present[0 if step > 0 else -1]
                at[present, slot] = flat[taken, slot]
            yield Source(text=f"the row {side} it that has one there{ending}", at=at)


def _of_same_expert(rows: Tensor, flat: Tensor, experts: Tensor) -> Iterator[Source]:
    """Yield the rows of the same expert before and after each, in the order of rows."""
    slots = flat.shape[1]
    number = (rows[:, None] * slots + torch.arange(slots, device=rows.device)).flatten()
    ids = experts.flatten()
    order = (ids * (int(number.max()) + 1) + number).argsort()
    place = torch.arange(len(order), device=rows.device)
    _, at_expert = torch.unique(ids[order], return_inverse=True)
    counts = torch.bincount(at_expert)
    start = (counts.cumsum(0) - counts)[at_expert]
    mirrored = start + counts[at_expert] - 1 - (place - start)
    at = torch.empty_like(order)
    at[order] = torch.where(ids[order] >= 0, order[mirrored], order)
    yield Source(text="the expert's rows in reverse order", at=at.view(flat.shape))
    for step in (1, -1):
        neighbour = order.roll(step)
        is_same = ids[neighbour] == ids[order]
        side = "before" if step > 0 else "after"
        none = torch.full_like(order, -1)
        for ending, own in (("expert's", order), ("expert's", none), ("sorted", neighbour)):
            at = torch.empty_like(flat.flatten())
            at[order] = torch.where(is_same & (ids[order] >= 0), neighbour, own)
            name = "the expert's row" if ending == "expert's" else "the row, sorted by expert,"
            yield Source(text=f"{name} {side} it", at=at.view(flat.shape))
