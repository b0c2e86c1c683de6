"""Find what the routing of the wrong rows has in common: experts, their ranks, their blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.patterns import CHANCE, COVERS, ROWS_WRONG, Pattern, chance, same
from harness.record.formatting import numbers_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from moe.spec import LayerSpec

MOST_WRONG = 0.5  # of an expert's rows: a small error leaves some rows within tolerance
BLOCKS = (128, 64, 32, 16)  # rows of one expert in a tile of a kernel


def of_routing(
    bad: Tensor, topk_ids: Tensor, layer_spec: LayerSpec, rank: int, *, all_tokens: bool
) -> list[Pattern]:
    """Return patterns of the wrong rows' routing.

    bad: [T] bool, wrong rows. topk_ids: [T, k] global ids, -1 = none.
    all_tokens: the experts got no other tokens, so a row's position within its expert is known.
    """
    bad, topk_ids = bad.cpu(), topk_ids.cpu()  # the search takes many small steps
    is_computed = bad | (topk_ids >= 0).any(dim=1)  # others have no expert, and are never wrong
    bad, topk_ids = bad[is_computed], topk_ids[is_computed]
    if not bool(bad.any()) or bool(bad.all()):
        return []
    patterns = _by_rank(bad, topk_ids, layer_spec, rank)
    patterns += [] if patterns else _by_experts(bad, topk_ids, layer_spec)
    candidates = list(_empty_slots(topk_ids))
    if all_tokens:
        candidates += _by_place(topk_ids, layer_spec.held_experts)
    patterns += _fitting(bad, candidates)[:1]
    return patterns


def shares(bad: Tensor, topk_ids: Tensor, num_experts: int) -> dict[str, tuple[int, int]]:
    """Return for each expert with rows (wrong rows, rows), keyed by its id as text."""
    hits = _hits(topk_ids, num_experts)
    rows, wrong_rows = hits.sum(dim=0).tolist(), (hits & bad[:, None]).sum(dim=0).tolist()
    return {str(e): (wrong_rows[e], rows[e]) for e in range(num_experts) if rows[e]}


def _hits(topk_ids: Tensor, num_experts: int) -> Tensor:
    """Return [T, E] bool: which row is routed to which expert."""
    ids = topk_ids.long()
    inside = (ids >= 0) & (ids < num_experts)
    hits = torch.zeros((len(ids), num_experts + 1), dtype=torch.bool, device=ids.device)
    return hits.scatter_(1, ids.where(inside, num_experts), True)[:, :num_experts]


def _fitting(bad: Tensor, candidates: list[tuple[Pattern, Tensor]]) -> list[Pattern]:
    total, bad_count = len(bad), int(bad.sum())
    return [
        pattern
        for pattern, hits in candidates
        if same(hits, bad) and chance(total, int(hits.sum()), bad_count, len(candidates)) < CHANCE
    ]


def _by_rank(bad: Tensor, topk_ids: Tensor, layer_spec: LayerSpec, rank: int) -> list[Pattern]:
    layout = layer_spec.layout
    if layout.size("ep") == 1:
        return []
    hits = _hits(topk_ids, layer_spec.held_experts)
    owned = layer_spec.experts_by_rank
    hit_by_rank = torch.stack([hits[:, list(experts)].any(dim=1) for experts in owned])  # [W, T]
    local = hit_by_rank[rank]
    is_other = [layout.ep_rank(r) != layout.ep_rank(rank) for r in range(layout.world_size)]
    remote = hit_by_rank[is_other].any(dim=0)
    candidates = [
        (_experts_pattern(list(experts), layer_spec), hit_by_rank[r])
        for r, experts in enumerate(owned)
        if len(experts) and layout.position("moe_tp", r) == 0
    ]
    data = {"rank": rank}
    remote_pattern = Pattern(
        name="other_ranks", text="only rows with an expert on another rank", data=data
    )
    local_pattern = Pattern(
        name="own_rank", text="only rows all of whose experts are local", data=data
    )
    candidates += [(remote_pattern, remote), (local_pattern, local & ~remote)]
    if layout.size("ep") == 2:  # same rows as the other rank's experts, but less specific
        candidates = [c for c in candidates if c[0].name != "other_ranks"]
    return _fitting(bad, candidates)[:1]


def _by_experts(bad: Tensor, topk_ids: Tensor, layer_spec: LayerSpec) -> list[Pattern]:
    """Return the fewest experts that explain all wrong rows: nearly all their rows are wrong.

    If there are none, accept experts at least MOST_WRONG of whose rows are wrong.
    """
    hits = _hits(topk_ids, layer_spec.held_experts)
    for least in (ROWS_WRONG, MOST_WRONG):
        experts = _covering(bad, hits, least)
        covered = hits[:, experts].any(dim=1) if experts else torch.zeros_like(bad)
        bad_hits, all_rows, bad_count = (int(t.sum()) for t in (covered & bad, covered, bad))
        if bad_hits < COVERS * bad_count or bad_hits < least * all_rows:
            continue
        choices = float(layer_spec.held_experts) ** len(experts)
        if chance(len(bad), all_rows, bad_count, choices) < CHANCE:
            pattern = _experts_pattern(sorted(experts), layer_spec)
            if bad_hits < ROWS_WRONG * all_rows:
                text = f"{pattern.text}; of the {all_rows} rows that were, {bad_hits} are wrong"
                return [replace(pattern, text=text)]
            return [pattern]
    return []


def _covering(bad: Tensor, hits: Tensor, least: float) -> list[int]:
    """Return experts with at least a fraction `least` of wrong rows, chosen greedily."""
    counts = hits.sum(dim=0)
    guilty = ((hits & bad[:, None]).sum(dim=0) >= least * counts) & (counts > 0)
    unexplained, experts = bad.clone(), []
    while bool(unexplained.any()):
        gain = (hits & unexplained[:, None]).sum(dim=0) * guilty
        best = int(gain.argmax())
        if int(gain[best]) == 0:
            break
        experts.append(best)
        unexplained &= ~hits[:, best]
    return experts


def _experts_pattern(experts: list[int], layer_spec: LayerSpec) -> Pattern:
    noun = "experts" if len(experts) > 1 else "expert"
    text = f"all wrong rows were routed to {noun} {numbers_text(experts)}"
    data = {"experts": experts, "ranks": []}
    if layer_spec.layout.size("ep") > 1:
        by_rank = enumerate(layer_spec.experts_by_rank)
        data["ranks"] = [rank for rank, local in by_rank if set(experts) & set(local)]
        ranks = "ranks" if len(data["ranks"]) > 1 else "rank"
        text += f" ({ranks} {numbers_text(data['ranks'])})"
    return Pattern(name="experts", text=text, data=data)


def _empty_slots(topk_ids: Tensor) -> Iterator[tuple[Pattern, Tensor]]:
    yield (
        Pattern(name="empty_slots", text="only rows with an empty slot (topk_ids -1)"),
        (topk_ids < 0).any(dim=1),
    )


def _by_place(topk_ids: Tensor, num_experts: int) -> Iterator[tuple[Pattern, Tensor]]:
    """Yield patterns of a row's position among its expert's rows, in token order."""
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
    """Return [T] bool: rows with a marked slot. slots: [T * k] bool."""
    return slots.view(topk_ids.shape).any(dim=1)
