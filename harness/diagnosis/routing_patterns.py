"""What the wrong rows' routing has in common: their experts, those experts' ranks and blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.patterns import CHANCE, COVERS, ROWS_WRONG, Pattern, chance, same
from harness.formatting import numbers_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from moe.spec import Problem

MOST_WRONG = 0.5  # of an expert's rows: a slight mistake of it leaves some within their bounds
BLOCKS = (128, 64, 32, 16)  # rows that a kernel takes of one expert at a time


def of_routing(
    bad: Tensor, topk_ids: Tensor, problem: Problem, rank: int, *, whole: bool
) -> list[Pattern]:
    """bad: [T] bool, wrong rows; topk_ids: [T, k] global ids, -1 = none.

    whole: these are all tokens that the experts saw, so places within an expert are known.
    """
    if not bool(bad.any()) or bool(bad.all()):
        return []
    found = _by_rank(bad, topk_ids, problem, rank)
    found += [] if found else _by_experts(bad, topk_ids, problem)
    candidates = list(_empty_slots(topk_ids))
    if whole:
        candidates += _by_place(topk_ids, problem.num_experts)
    found += _fitting(bad, candidates)[:1]
    return found


def shares(bad: Tensor, topk_ids: Tensor, num_experts: int) -> dict[str, tuple[int, int]]:
    """Expert -> (wrong rows, rows) routed to it; experts without rows are left out."""
    hits = _hits(topk_ids, num_experts)
    rows, wrong = hits.sum(dim=0).tolist(), (hits & bad[:, None]).sum(dim=0).tolist()
    return {str(e): (wrong[e], rows[e]) for e in range(num_experts) if rows[e]}


def _hits(topk_ids: Tensor, num_experts: int) -> Tensor:
    """[T, E] bool: which row is routed to which expert."""
    ids = topk_ids.long()
    inside = (ids >= 0) & (ids < num_experts)
    hits = torch.zeros((len(ids), num_experts + 1), dtype=torch.bool, device=ids.device)
    return hits.scatter_(1, ids.where(inside, num_experts), True)[:, :num_experts]


def _fitting(bad: Tensor, candidates: list[tuple[Pattern, Tensor]]) -> list[Pattern]:
    total, wrong = len(bad), int(bad.sum())
    return [
        pattern
        for pattern, hits in candidates
        if same(hits, bad) and chance(total, int(hits.sum()), wrong, len(candidates)) < CHANCE
    ]


def _by_rank(bad: Tensor, topk_ids: Tensor, problem: Problem, rank: int) -> list[Pattern]:
    layout = problem.layout
    if not layout.use_ep or layout.world_size == 1:
        return []
    hits = _hits(topk_ids, problem.num_experts)
    owned = problem.experts_by_rank
    there = torch.stack([hits[:, list(of)].any(dim=1) for of in owned])  # [W, T]
    mine, other = there[rank], torch.cat([there[:rank], there[rank + 1 :]]).any(dim=0)
    candidates = [
        (_experts_pattern(list(of), problem), there[r]) for r, of in enumerate(owned) if len(of)
    ]
    data = {"rank": rank}
    away = Pattern(name="other_ranks", text="only rows with an expert on another rank", data=data)
    home = Pattern(name="own_rank", text="only rows all of whose experts are local", data=data)
    candidates += [(away, other), (home, mine & ~other)]
    if layout.world_size == 2:  # says the same as the other rank's experts, less clearly
        candidates = [c for c in candidates if c[0].name != "other_ranks"]
    return _fitting(bad, candidates)[:1]


def _by_experts(bad: Tensor, topk_ids: Tensor, problem: Problem) -> list[Pattern]:
    """The fewest experts that explain every wrong row: nearly all their rows are, or else most."""
    hits = _hits(topk_ids, problem.num_experts)
    for least in (ROWS_WRONG, MOST_WRONG):
        chosen = _covering(bad, hits, least)
        covered = hits[:, chosen].any(dim=1) if chosen else torch.zeros_like(bad)
        both, all_rows, wrong = (int(t.sum()) for t in (covered & bad, covered, bad))
        if both < COVERS * wrong or both < least * all_rows:
            continue
        if chance(len(bad), all_rows, wrong, float(problem.num_experts) ** len(chosen)) < CHANCE:
            found = _experts_pattern(sorted(chosen), problem)
            if both < ROWS_WRONG * all_rows:
                text = f"{found.text}; of the {all_rows} rows that were, {both} are wrong"
                return [replace(found, text=text)]
            return [found]
    return []


def _covering(bad: Tensor, hits: Tensor, least: float) -> list[int]:
    """Experts at least such a share of whose rows is wrong, the most telling first."""
    counts = hits.sum(dim=0)
    guilty = ((hits & bad[:, None]).sum(dim=0) >= least * counts) & (counts > 0)
    left, chosen = bad.clone(), []
    while bool(left.any()):
        gain = (hits & left[:, None]).sum(dim=0) * guilty
        best = int(gain.argmax())
        if int(gain[best]) == 0:
            break
        chosen.append(best)
        left &= ~hits[:, best]
    return chosen


def _experts_pattern(experts: list[int], problem: Problem) -> Pattern:
    what = "experts" if len(experts) > 1 else "expert"
    text = f"all wrong rows were routed to {what} {numbers_text(experts)}"
    data = {"experts": experts, "ranks": []}
    if problem.layout.use_ep and problem.layout.world_size > 1:
        by_rank = enumerate(problem.experts_by_rank)
        data["ranks"] = [rank for rank, held in by_rank if set(experts) & set(held)]
        ranks = "ranks" if len(data["ranks"]) > 1 else "rank"
        text += f" ({ranks} {numbers_text(data['ranks'])})"
    return Pattern(name="experts", text=text, data=data)


def _empty_slots(topk_ids: Tensor) -> Iterator[tuple[Pattern, Tensor]]:
    yield (
        Pattern(name="empty_slots", text="only rows with an empty slot (topk_ids -1)"),
        (topk_ids < 0).any(dim=1),
    )


def _by_place(topk_ids: Tensor, num_experts: int) -> Iterator[tuple[Pattern, Tensor]]:
    """By a row's place among its expert's rows, in the order of the tokens."""
    ids = topk_ids.reshape(-1)
    hits = torch.nn.functional.one_hot(ids.long().clamp(min=0), num_experts)
    hits = hits * (ids >= 0)[:, None]
    place = (hits.cumsum(dim=0) * hits).sum(dim=1) - 1  # [T * k]
    count = hits.sum(dim=0)[ids.long().clamp(min=0)]
    for block in BLOCKS:
        partly = (place >= count // block * block) & (ids >= 0)
        text = f"only rows in the last, partly filled block of {block} of an expert"
        data = {"block": block}
        yield Pattern(name="expert_tail", text=text, data=data), _rows(partly, topk_ids)
        beyond = (place >= block) & (ids >= 0)
        text = f"only rows beyond the first {block} of an expert"
        yield Pattern(name="expert_beyond", text=text, data=data), _rows(beyond, topk_ids)


def _rows(slots: Tensor, topk_ids: Tensor) -> Tensor:
    """[T * k] -> [T]: rows any of whose slots is marked."""
    return slots.view(topk_ids.shape).any(dim=1)
